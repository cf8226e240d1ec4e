//! The script by which nft brings what is there to what is to be there, in one transaction.

use std::fmt::Write as _;

use crate::present::Present;

use super::{Chain, Content, RuleSet, Set, TABLE, Table, list};

impl RuleSet {
    /// Replaces everything but what sets remember of connections.
    pub(crate) fn script(&self, present: &Present) -> String {
        let chains = present.names("chain").filter(|name| !self.bridge.chains.iter().any(|chain| chain.name == *name));
        let kept = |name: &str| {
            self.bridge.sets.iter().any(|set| set.name == name && matches!(set.content, Content::Memory(_)))
        };
        let sets = present.names("set").filter(|name| !kept(name));
        let mut script = format!("add table bridge {TABLE}\nflush table bridge {TABLE}\n");
        for (kind, name) in chains.map(|name| ("chain", name)).chain(sets.map(|name| ("set", name))) {
            let _ = writeln!(script, "delete {kind} bridge {TABLE} {name}");
        }
        script.push_str(&self.bridge.text("bridge"));
        script.push_str(&self.inet_anew());
        script
    }

    /// Replaces everything.
    pub(crate) fn script_anew(&self) -> String {
        format!(
            "add table bridge {TABLE}\ndelete table bridge {TABLE}\n{}{}",
            self.bridge.text("bridge"),
            self.inet_anew()
        )
    }

    fn inet_anew(&self) -> String {
        format!("add table inet {TABLE}\ndelete table inet {TABLE}\n{}", self.inet.text("inet"))
    }
}

impl Table {
    pub(super) fn text(&self, family: &str) -> String {
        let mut text = format!("table {family} {TABLE} {{\n");
        for set in &self.sets {
            set.write(&mut text);
        }
        for chain in &self.chains {
            chain.write(&mut text);
        }
        text.push_str("}\n");
        text
    }
}

impl Set {
    fn write(&self, text: &mut String) {
        let Self { name, type_of, content } = self;
        let _ = writeln!(text, "\tset {name} {{\n\t\ttypeof {type_of}");
        let elements = match content {
            Content::Elements(elements) => elements.as_slice(),
            Content::Prefixes(prefixes) => {
                text.push_str("\t\tflags interval\n\t\tauto-merge\n");
                prefixes
            }
            Content::Memory(size) => {
                let _ = writeln!(text, "\t\tsize {size}\n\t\tflags dynamic,timeout");
                &[]
            }
        };
        if !elements.is_empty() {
            let _ = writeln!(text, "\t\telements = {}", list(elements));
        }
        text.push_str("\t}\n");
    }
}

impl Chain {
    fn write(&self, text: &mut String) {
        let _ = writeln!(text, "\tchain {} {{", self.name);
        if let Some(hook) = self.hook {
            let _ = writeln!(text, "\t\ttype filter hook {hook}; policy accept;");
        }
        for rule in &self.rules {
            let _ = writeln!(text, "\t\t{rule}");
        }
        text.push_str("\t}\n");
    }
}
