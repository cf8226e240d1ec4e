//! How a domain stands still while its disks are kept, and goes on, over an open connection. All of it blocks; all of it is
//! idempotent.
//!
//! ```text
//!   marked --> frozen by the guest's agent, or suspended --> ... --> goes on, thawed --> no longer marked
//! ```
//! The mark is in the metadata, from before the guest is touched until after it was let go: whoever comes after an agent
//! that died between any two steps finds it. Who pauses a domain by hand, and an error of a disk, leave no mark: what they
//! have paused is not ours to wake.

use std::time::Duration;

use quick_xml::{Reader, events::Event};
use ucloud_agent_core::hypervisor::Consistency;
use virt::{
    connect::Connect,
    domain::Domain as Handle,
    error::{Error, ErrorNumber},
    sys,
};

use crate::{
    calls, domains,
    interfaces::attribute,
    metadata::{self, MetadataError},
    state::{is_suspended, runs},
};

/// How long a guest's agent may take to answer at all.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a guest may take to write out what it has.
const FREEZE: Duration = Duration::from_secs(30);
/// The channel of QEMU's guest agent, which every guest's agent looks for.
pub const AGENT: &str = "org.qemu.guest_agent.0";

/// Why a domain does not stand still, or go on, before libvirt was asked for it.
#[derive(Debug, thiserror::Error)]
pub enum StandstillError {
    /// There is nothing that could stand still.
    #[error("it does not run")]
    Off,
    /// It waits for an operator.
    #[error("it is paused, and not by ucloud: an error of a disk, or an operator")]
    Paused,
    /// Its agent was asked to freeze it, and has not said that it did.
    #[error("its guest has not written out what it has within half a minute; try again when it writes less")]
    Busy,
    /// What the domain is made of cannot be read.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// Marks a domain, and makes it stand still. One that is suspended already stays so.
pub fn stand_still(connect: &Connect, uid: &str) -> Result<Result<Consistency, StandstillError>, Error> {
    let Some(handle) = domains::handle(connect, uid)? else { return Ok(Err(StandstillError::Off)) };
    let is_marked = match marked(&handle, uid)? {
        Ok(marked) => marked,
        Err(error) => return Ok(Err(error.into())),
    };
    let (state, reason) = handle.get_state()?;
    match state {
        state if runs(state) => {}
        sys::VIR_DOMAIN_PAUSED if is_marked && is_suspended(state, reason) => return Ok(Ok(Consistency::Crash)),
        sys::VIR_DOMAIN_PAUSED => return Ok(Err(StandstillError::Paused)),
        _ => return Ok(Err(StandstillError::Off)),
    }
    if let Err(error) = mark(&handle, uid, true)? {
        return Ok(Err(error.into()));
    }
    match freeze(&handle)? {
        Ok(true) => return Ok(Ok(Consistency::Filesystems)),
        Ok(false) => {}
        Err(error) => return Ok(Err(error)),
    }
    handle.suspend()?;
    Ok(Ok(Consistency::Crash))
}

/// Lets a domain that is marked go on, and takes the mark away.
pub fn resume(connect: &Connect, uid: &str) -> Result<Result<(), StandstillError>, Error> {
    let Some(handle) = domains::handle(connect, uid)? else { return Ok(Ok(())) };
    match marked(&handle, uid)? {
        Ok(true) => {}
        Ok(false) => return Ok(Ok(())),
        Err(error) => return Ok(Err(error.into())),
    }
    let (state, reason) = handle.get_state()?;
    let suspended = is_suspended(state, reason);
    if suspended {
        handle.resume()?;
    } else if state == sys::VIR_DOMAIN_PAUSED {
        // Its guest may be frozen, and can be thawed only when it runs
        return Ok(Err(StandstillError::Paused));
    }
    if suspended || runs(state) {
        match agent(&handle)? {
            Ok(true) => thaw(&handle, suspended)?,
            Ok(false) => {}
            Err(error) => return Ok(Err(error.into())),
        }
    }
    Ok(mark(&handle, uid, false)?.map_err(Into::into))
}

/// Whether the guest's agent could be brought to freeze its file systems. It is an error if it was asked to and does not say:
/// it may do so later.
fn freeze(handle: &Handle) -> Result<Result<bool, StandstillError>, Error> {
    match agent(handle)? {
        Ok(true) if answers(handle)? => {}
        Ok(_) => return Ok(Ok(false)),
        Err(error) => return Ok(Err(error.into())),
    }
    calls::set_agent_timeout(handle, FREEZE)?;
    match calls::freeze(handle) {
        // With nothing frozen, nothing stands still
        Ok(frozen) => Ok(Ok(frozen > 0)),
        Err(error) if is_silence(&error) => Ok(Err(StandstillError::Busy)),
        Err(error) => {
            tracing::info!(error = %error.message(), "a guest's agent freezes nothing: its VM is suspended");
            Ok(Ok(false))
        }
    }
}

/// Thaws what the guest's agent has frozen, or may have, if that took it too long to say so.
fn thaw(handle: &Handle, was_suspended: bool) -> Result<(), Error> {
    // What was suspended had an agent that has nothing frozen: it did not answer even then, or has said no
    if was_suspended && !answers(handle)? {
        return Ok(());
    }
    calls::set_agent_timeout(handle, FREEZE)?;
    match calls::thaw(handle) {
        Err(error) if !is_silence(&error) => {
            tracing::info!(error = %error.message(), "a guest's agent thaws nothing");
            Ok(())
        }
        thawed => thawed,
    }
}

/// Whether the guest's agent answers, whatever it says.
fn answers(handle: &Handle) -> Result<bool, Error> {
    calls::set_agent_timeout(handle, ANSWER)?;
    Ok(!handle.get_time(0).is_err_and(|error| is_silence(&error)))
}

fn is_silence(error: &Error) -> bool {
    matches!(error.code(), ErrorNumber::AgentUnresponsive | ErrorNumber::AgentCommandTimeout)
}

/// Whether the guest's agent has opened its end of the channel.
fn agent(handle: &Handle) -> Result<Result<bool, MetadataError>, Error> {
    Ok(agent_is_connected(&handle.get_xml_desc(0)?))
}

fn agent_is_connected(domain_xml: &str) -> Result<bool, MetadataError> {
    let mut reader = Reader::from_str(domain_xml);
    let mut path: Vec<String> = Vec::new();
    loop {
        match reader.read_event()? {
            Event::Empty(element)
                if element.name().as_ref() == "target"
                    && path == ["domain", "devices", "channel"]
                    && attribute(&element, "name")?.as_deref() == Some(AGENT) =>
            {
                return Ok(attribute(&element, "state")?.as_deref() == Some("connected"));
            }
            Event::Start(start) => path.push(start.name().as_ref().to_owned()),
            Event::End(_) => drop(path.pop()),
            Event::Eof => return Ok(false),
            _ => {}
        }
    }
}

/// Whether the domain bears the mark. What is not ours does not.
fn marked(handle: &Handle, uid: &str) -> Result<Result<bool, MetadataError>, Error> {
    Ok(match domains::metadata(handle)? {
        Some(metadata) => metadata::decode(&metadata, uid).map(|spec| spec.standstill),
        None => Ok(false),
    })
}

/// Marks the domain or takes the mark away. The rest of its metadata stays.
fn mark(handle: &Handle, uid: &str, standstill: bool) -> Result<Result<(), MetadataError>, Error> {
    let Some(metadata) = domains::metadata(handle)? else { return Ok(Ok(())) };
    let element = metadata::decode(&metadata, uid).and_then(|mut spec| {
        spec.standstill = standstill;
        Ok(metadata::element(&spec)?)
    });
    match element {
        Ok(element) => {
            let live = if handle.is_active()? { sys::VIR_DOMAIN_AFFECT_LIVE } else { 0 };
            domains::set_metadata(handle, &element, live | sys::VIR_DOMAIN_AFFECT_CONFIG).map(Ok)
        }
        Err(error) => Ok(Err(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_there_once_it_has_opened_its_own_channel() {
        let xml = |channels: &str| {
            format!(
                "<domain><metadata><channel><target name='{AGENT}' state='connected'/></channel></metadata>\
                 <devices><disk><target dev='vda'/></disk>{channels}</devices></domain>"
            )
        };
        let channel = |name: &str, state: &str| {
            format!(
                "<channel type='unix'><source mode='bind' path='/x'/><target type='virtio' name='{name}' {state}/></channel>"
            )
        };
        let connected = |channels: &[String]| agent_is_connected(&xml(&channels.concat())).unwrap();
        assert!(!connected(&[]));
        assert!(!connected(&[channel(AGENT, "")]));
        assert!(!connected(&[channel(AGENT, "state='disconnected'"), channel("other", "state='connected'")]));
        assert!(connected(&[channel("other", ""), channel(AGENT, "state='connected'")]));
        assert!(agent_is_connected("<domain><devices").is_err());
    }
}
