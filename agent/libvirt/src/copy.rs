//! How disks of a domain that runs are copied (by a backup job of libvirt's that pushes), over an open connection. All of it
//! blocks.
//!
//! QEMU keeps what the disks held when the job began: what the guest overwrites meanwhile, it copies first. The job belongs to
//! the domain, and libvirt keeps how it ended: both outlive an agent. libvirt gives the files to the user that QEMU runs as,
//! and takes them back at the end, however that comes.

use std::{
    ffi::CString,
    thread,
    time::{Duration, Instant},
};

use ucloud_agent_core::hypervisor::{Copying, DiskCopy};
use virt::{connect::Connect, domain::Domain as Handle, error::Error, sys};

use crate::{
    calls::{self, Job},
    connection::brief,
    disks, domains,
    metadata::MetadataError,
    xml::{self, XmlError},
};

/// How long a job may take to end that was broken off, and how often that is looked at.
const END: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);

/// Why disks cannot be copied, before libvirt was asked for it.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// There is nothing that could copy them.
    #[error("it does not run")]
    Off,
    /// The domain has no such disk.
    #[error("it has no disk {0}")]
    NoDisk(String),
    /// An earlier job does not end.
    #[error("its earlier copying does not come to an end")]
    Busy,
    /// What the domain is made of cannot be read.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// A path cannot be written as XML.
    #[error(transparent)]
    Xml(#[from] XmlError),
}

/// Begins to copy these disks, after an earlier copying was given up.
pub fn begin(connect: &Connect, uid: &str, copies: &[DiskCopy]) -> Result<Result<(), CopyError>, Error> {
    let Some(handle) = active(connect, uid)? else { return Ok(Err(CopyError::Off)) };
    let xml = match backup(&handle.get_xml_desc(0)?, copies) {
        Ok(xml) => xml,
        Err(error) => return Ok(Err(error)),
    };
    if !give_up(&handle)? {
        return Ok(Err(CopyError::Busy));
    }
    // How an earlier one has ended must not be taken for the end of this one, should it not begin
    calls::job(&handle, sys::VIR_DOMAIN_JOB_STATS_COMPLETED)?;
    calls::begin_backup(&handle, &xml).map(Ok)
}

/// How far the copying is that was begun last.
pub fn progress(connect: &Connect, uid: &str) -> Result<Copying, Error> {
    let Some(handle) = domains::handle(connect, uid)? else { return Ok(ended(&Job::default(), false)) };
    let active = handle.is_active()?;
    if active {
        let job = calls::job(&handle, 0)?;
        if is_copying(&job) {
            return Ok(Copying::Running(percent(&job)));
        }
    }
    let kept = sys::VIR_DOMAIN_JOB_STATS_COMPLETED | sys::VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED;
    Ok(ended(&calls::job(&handle, kept)?, active))
}

/// Gives up the copying that is under way. False: it does not come to an end.
pub fn end(connect: &Connect, uid: &str) -> Result<bool, Error> {
    match active(connect, uid)? {
        Some(handle) => give_up(&handle),
        None => Ok(true),
    }
}

fn active(connect: &Connect, uid: &str) -> Result<Option<Handle>, Error> {
    let handle = domains::handle(connect, uid)?;
    let active = handle.as_ref().map(Handle::is_active).transpose()?;
    Ok(handle.filter(|_| active == Some(true)))
}

fn give_up(handle: &Handle) -> Result<bool, Error> {
    let begun = Instant::now();
    while is_copying(&calls::job(handle, 0)?) {
        if begun.elapsed() > END {
            return Ok(false);
        }
        // It fails when the job has ended by itself meanwhile, which the next look shows
        if let Err(error) = calls::abort_job(handle) {
            tracing::debug!(error = %error.message(), "giving up a copying");
        }
        thread::sleep(LOOK);
    }
    Ok(true)
}

/// Whether this is a copying that is under way.
fn is_copying(job: &Job) -> bool {
    let runs = matches!(job.kind, sys::VIR_DOMAIN_JOB_BOUNDED | sys::VIR_DOMAIN_JOB_UNBOUNDED);
    runs && job.operation == sys::VIR_DOMAIN_JOB_OPERATION_BACKUP
}

/// A disk that is done is no longer counted, so that this may fall.
fn percent(job: &Job) -> u8 {
    let percent = u128::from(job.processed) * 100 / u128::from(job.total.max(1));
    u8::try_from(percent).unwrap_or(100).min(100)
}

/// What the job that has ended last means for a copying.
fn ended(job: &Job, active: bool) -> Copying {
    let kind = if job.operation == sys::VIR_DOMAIN_JOB_OPERATION_BACKUP { job.kind } else { sys::VIR_DOMAIN_JOB_NONE };
    match kind {
        sys::VIR_DOMAIN_JOB_COMPLETED => Copying::Done,
        sys::VIR_DOMAIN_JOB_FAILED => Copying::Failed(job.error.as_deref().map_or("QEMU says no more".into(), brief)),
        _ if !active => Copying::Failed("the VM has stopped".to_owned()),
        sys::VIR_DOMAIN_JOB_CANCELLED => Copying::Failed("it was given up".to_owned()),
        _ => Copying::None,
    }
}

/// What libvirt is told of the copying: each of the domain's disks, and where to, or that it is left out.
fn backup(domain_xml: &str, copies: &[DiskCopy]) -> Result<CString, CopyError> {
    let found = disks::read(domain_xml)?;
    let has = |copy: &&DiskCopy| found.iter().any(|disk| disk.serial.as_ref() == Some(&copy.disk));
    if let Some(missing) = copies.iter().find(|copy| !has(copy)) {
        return Err(CopyError::NoDisk(missing.disk.clone()));
    }
    let target = |disk: &disks::Found| copies.iter().find(|copy| disk.serial.as_ref() == Some(&copy.disk));
    let disks = found.iter().map(|disk| (disk.device.as_str(), target(disk).map(|copy| copy.path.as_path())));
    Ok(xml::backup_xml(&disks.collect::<Vec<_>>())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(kind: sys::virDomainJobType) -> Job {
        Job { kind, operation: sys::VIR_DOMAIN_JOB_OPERATION_BACKUP, total: 200, processed: 50, error: None }
    }

    #[test]
    fn jobs_and_their_ends() {
        assert!(is_copying(&job(sys::VIR_DOMAIN_JOB_UNBOUNDED)));
        assert!(!is_copying(&job(sys::VIR_DOMAIN_JOB_COMPLETED)) && !is_copying(&Job::default()));
        assert_eq!((percent(&job(sys::VIR_DOMAIN_JOB_UNBOUNDED)), percent(&Job::default())), (25, 0));
        let failed = |why: &str| Copying::Failed(why.to_owned());
        let migration =
            Job { operation: sys::VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN, ..job(sys::VIR_DOMAIN_JOB_COMPLETED) };
        let full = Job { error: Some("No space\n left".to_owned()), ..job(sys::VIR_DOMAIN_JOB_FAILED) };
        for (job, active, expected) in [
            (job(sys::VIR_DOMAIN_JOB_COMPLETED), true, Copying::Done),
            (job(sys::VIR_DOMAIN_JOB_COMPLETED), false, Copying::Done),
            (job(sys::VIR_DOMAIN_JOB_CANCELLED), true, failed("it was given up")),
            (job(sys::VIR_DOMAIN_JOB_CANCELLED), false, failed("the VM has stopped")),
            (full, true, failed("No space left")),
            (migration, true, Copying::None),
            (Job::default(), true, Copying::None),
            (Job::default(), false, failed("the VM has stopped")),
        ] {
            assert_eq!(ended(&job, active), expected, "{job:?}");
        }
    }

    #[test]
    fn only_the_disks_that_are_named_are_copied() {
        let xml = "<domain><devices>\
            <disk type='file' device='disk'><target dev='vda'/><serial>root</serial></disk>\
            <disk type='file' device='disk'><target dev='vdb'/><serial>data</serial></disk>\
            <disk type='file' device='cdrom'><target dev='sda'/></disk></devices></domain>";
        let copy = |disk: &str| DiskCopy { disk: disk.into(), path: "/pool/tmp/a'<&".into() };
        assert_eq!(
            backup(xml, &[copy("data")]).unwrap().to_str().unwrap(),
            "<domainbackup mode=\"push\"><disks><disk name=\"vda\" backup=\"no\"/>\
             <disk name=\"vdb\" backup=\"yes\" type=\"file\"><driver type=\"qcow2\"/><target file=\"/pool/tmp/a&apos;&lt;&amp;\"/></disk>\
             <disk name=\"sda\" backup=\"no\"/></disks></domainbackup>"
        );
        assert!(matches!(backup(xml, &[copy("root"), copy("vdb")]), Err(CopyError::NoDisk(disk)) if disk == "vdb"));
        let unwritable = DiskCopy { path: "/pool/\0".into(), ..copy("root") };
        assert!(matches!(backup(xml, &[unwritable]), Err(CopyError::Xml(_))));
    }
}
