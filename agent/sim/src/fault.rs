//! Faults: calls that are refused, whose answer is lost, that are late or never answered.

use std::time::Duration;

use ucloud_agent_core::HostError;

use crate::SimHost;

/// The methods of a host, of all its traits, that may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each is the trait method of that name")]
pub enum Method {
    Domains,
    Domain,
    Start,
    Plug,
    Unplug,
    PlugDisk,
    UnplugDisk,
    GrowDisk,
    StandStill,
    Resume,
    BeginCopy,
    Copying,
    EndCopy,
    RequestShutdown,
    Destroy,
    Undefine,
    Facts,
    Usage,
    ImportImage,
    Image,
    Images,
    RemoveImage,
    Snapshot,
    CopyTarget,
    KeepCopy,
    EnsureDisk,
    Disks,
    DiskSize,
    RenameDisk,
    RemoveDisk,
    Size,
    Read,
    Networks,
    EnsureNetwork,
    RemoveNetwork,
    EnsureTaps,
    Solicit,
    UnderlayAddresses,
    Advertise,
    Enforce,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 40] = [
        Self::Domains,
        Self::Domain,
        Self::Start,
        Self::Plug,
        Self::Unplug,
        Self::PlugDisk,
        Self::UnplugDisk,
        Self::GrowDisk,
        Self::StandStill,
        Self::Resume,
        Self::BeginCopy,
        Self::Copying,
        Self::EndCopy,
        Self::RequestShutdown,
        Self::Destroy,
        Self::Undefine,
        Self::Facts,
        Self::Usage,
        Self::ImportImage,
        Self::Image,
        Self::Images,
        Self::RemoveImage,
        Self::Snapshot,
        Self::CopyTarget,
        Self::KeepCopy,
        Self::EnsureDisk,
        Self::Disks,
        Self::DiskSize,
        Self::RenameDisk,
        Self::RemoveDisk,
        Self::Size,
        Self::Read,
        Self::Networks,
        Self::EnsureNetwork,
        Self::RemoveNetwork,
        Self::EnsureTaps,
        Self::Solicit,
        Self::UnderlayAddresses,
        Self::Advertise,
        Self::Enforce,
    ];
}

/// Which calls a fault concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The n-th from now on, counted from 1.
    Nth(u32),
    /// All.
    Always,
}

/// What happens to a call.
#[derive(Clone, Debug)]
pub enum Effect {
    /// It is answered with an error, and nothing is done.
    Refuse {
        /// The error's reason.
        reason: &'static str,
        /// Whether trying again is of no use.
        terminal: bool,
    },
    /// It is done, and answered with an error.
    LoseReply,
    /// It is answered late.
    Delay(Duration),
    /// It is done, and never answered.
    Hang,
    /// It is neither done nor ever answered.
    Stall,
}

/// A fault.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Calls of this method.
    pub method: Method,
    /// Which of them.
    pub when: When,
    /// What happens.
    pub effect: Effect,
}

impl SimHost {
    /// Does a call, as the faults allow. `work` is atomic.
    pub(crate) async fn call<T>(
        &self,
        method: Method,
        work: impl AsyncFnOnce() -> Result<T, HostError>,
    ) -> Result<T, HostError> {
        match self.effect_on(method) {
            None => work().await,
            Some(Effect::Refuse { reason, terminal: true }) => {
                Err(HostError::terminal(reason, format!("the simulated host refuses {method:?}")))
            }
            Some(Effect::Refuse { reason, terminal: false }) => {
                Err(HostError::retryable(reason, format!("the simulated host fails in {method:?}")))
            }
            Some(Effect::LoseReply) => {
                work().await?;
                Err(HostError::retryable("ReplyLost", format!("the simulated host lost the reply of {method:?}")))
            }
            Some(Effect::Delay(delay)) => {
                tokio::time::sleep(delay).await;
                work().await
            }
            Some(Effect::Hang) => {
                work().await?;
                self.hang().await
            }
            Some(Effect::Stall) => self.hang().await,
        }
    }

    async fn hang<T>(&self) -> T {
        self.hanging.send_modify(|count| *count += 1);
        std::future::pending().await
    }

    fn effect_on(&self, method: Method) -> Option<Effect> {
        let mut state = self.state();
        state.clock += 1;
        *state.calls.entry(method).or_default() += 1;
        let mut effect = None;
        for fault in state.faults.iter_mut().filter(|fault| fault.method == method) {
            match &mut fault.when {
                When::Always => effect = effect.or(Some(fault.effect.clone())),
                When::Nth(0) => {}
                When::Nth(left) => {
                    *left -= 1;
                    if *left == 0 {
                        effect = effect.or(Some(fault.effect.clone()));
                    }
                }
            }
        }
        effect
    }
}
