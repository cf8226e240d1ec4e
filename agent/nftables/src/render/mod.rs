//! The rules as nftables knows them.
//!
//! Four hooks in the table `bridge ucloud`, each of which finds the chains of a tap in one look-up:
//!
//! - `from-guests` (prerouting): what a guest may send at all ([`guard`]). It comes before the bridge learns where MAC
//!   addresses are, so what is dropped here misleads nobody;
//! - `leaving-guests` (prerouting, later): what the guest's security groups let out;
//! - `to-guests` (postrouting): what they let in ([`groups`]). Both are there as long as a guest is in a group;
//! - `to-host` (input): what reaches the host itself, as far as bridges can tell.
//!
//! And in the table `inet ucloud`, what guests reach of a host that routes, and through it ([`host`]).
//!
//! Whatever a rule is made of is a number, an address, or a name of a device that is a word: there is nothing to escape.

mod groups;
mod guard;
mod host;
mod script;
#[cfg(test)]
mod tests;

use std::fmt::Display;

use ucloud_agent_core::{firewall::Rules, net::TAP_PREFIX};

/// The name of our tables.
pub(crate) const TABLE: &str = "ucloud";
/// The families in which we have one.
pub(crate) const FAMILIES: [&str; 2] = ["bridge", "inet"];

/// All that is to be in our tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RuleSet {
    bridge: Table,
    inet: Table,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Table {
    sets: Vec<Set>,
    chains: Vec<Chain>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Set {
    name: String,
    /// What its elements are, as nft's `typeof`.
    type_of: &'static str,
    content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    /// These.
    Elements(Vec<String>),
    /// The same, as prefixes.
    Prefixes(Vec<String>),
    /// What the kernel remembers, this many at most. A change of rules leaves it alone.
    Memory(u32),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Chain {
    name: String,
    /// Where frames come into it from outside: the hook and its priority.
    hook: Option<&'static str>,
    rules: Vec<String>,
}

impl Chain {
    fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), hook: None, rules: Vec::new() }
    }

    fn base(name: &str, hook: &'static str) -> Self {
        Self { hook: Some(hook), ..Self::new(name) }
    }

    fn rule(mut self, rule: impl Into<String>) -> Self {
        self.rules.push(rule.into());
        self
    }

    fn rules<R: Into<String>>(mut self, rules: impl IntoIterator<Item = R>) -> Self {
        self.rules.extend(rules.into_iter().map(Into::into));
        self
    }
}

/// Everything that is to be in force.
pub(crate) fn render(rules: &Rules) -> RuleSet {
    let mut bridge = Table::default();
    guard::render(rules, &mut bridge);
    groups::render(rules, &mut bridge);
    host::render_bridge(&mut bridge);
    let mut inet = Table::default();
    host::render_inet(rules, &mut inet);
    RuleSet { bridge, inet }
}

/// A look-up of what to do by the device's name.
fn by_device(expression: &str, verdicts: &[(impl Display, String)]) -> Option<String> {
    (!verdicts.is_empty()).then(|| {
        let entries: Vec<_> = verdicts.iter().map(|(device, verdict)| format!("\"{device}\" : {verdict}")).collect();
        format!("{expression} vmap {{ {} }}", entries.join(", "))
    })
}

/// All taps of ucloud's.
fn any_tap() -> String {
    format!("\"{TAP_PREFIX}-*\"")
}

fn list(items: impl IntoIterator<Item = impl Display>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    format!("{{ {} }}", items.join(", "))
}
