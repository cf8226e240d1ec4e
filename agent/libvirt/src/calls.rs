//! Calls of libvirt's about domains that crate virt does not wrap, or not soundly: it takes the statistics of a job for a
//! `Vec`, also where libvirt gives no array at all. All of them block.

use std::{
    ffi::{CStr, CString, c_int, c_uint},
    ptr,
    time::Duration,
};

use virt::{domain::Domain as Handle, error::Error, sys};

/// A job of a domain, that runs or has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Job {
    /// How it stands.
    pub kind: sys::virDomainJobType,
    /// What it does.
    pub operation: sys::virDomainJobOperation,
    /// Bytes of disks that it is to go through, and those that it has.
    pub total: u64,
    /// Those that it has gone through.
    pub processed: u64,
    /// Why it failed.
    pub error: Option<String>,
}

fn judged(result: c_int) -> Result<c_int, Error> {
    if result < 0 { Err(Error::last_error()) } else { Ok(result) }
}

/// Freezes all file systems of the guest, by its agent, and tells how many.
pub fn freeze(handle: &Handle) -> Result<usize, Error> {
    // SAFETY: the domain is open; no list of file systems stands for all.
    let frozen = judged(unsafe { sys::virDomainFSFreeze(handle.as_ptr(), ptr::null_mut(), 0, 0) })?;
    Ok(usize::try_from(frozen).unwrap_or_default())
}

/// Thaws all file systems of the guest, by its agent. It is no error that none was frozen.
pub fn thaw(handle: &Handle) -> Result<(), Error> {
    // SAFETY: the domain is open; no list of file systems stands for all.
    judged(unsafe { sys::virDomainFSThaw(handle.as_ptr(), ptr::null_mut(), 0, 0) }).map(drop)
}

/// How long the guest's agent may take for an answer from now on. To one that has missed an earlier one, libvirt gives 5 s to
/// come back first.
pub fn set_agent_timeout(handle: &Handle, timeout: Duration) -> Result<(), Error> {
    let seconds = c_int::try_from(timeout.as_secs()).unwrap_or(c_int::MAX);
    // SAFETY: the domain is open.
    judged(unsafe { sys::virDomainAgentSetResponseTimeout(handle.as_ptr(), seconds, 0) }).map(drop)
}

/// Begins a backup, as the XML says, to files that are there.
pub fn begin_backup(handle: &Handle, xml: &CString) -> Result<(), Error> {
    let flags = sys::VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL;
    // SAFETY: the domain is open, and the XML valid for the call; there may be no checkpoint.
    judged(unsafe { sys::virDomainBackupBegin(handle.as_ptr(), xml.as_ptr(), ptr::null(), flags) }).map(drop)
}

/// Breaks off the domain's job. It may run on for a moment.
pub fn abort_job(handle: &Handle) -> Result<(), Error> {
    // SAFETY: the domain is open.
    judged(unsafe { sys::virDomainAbortJob(handle.as_ptr()) }).map(drop)
}

/// The job that runs; with [`sys::VIR_DOMAIN_JOB_STATS_COMPLETED`] the one that has ended last, which libvirt then forgets
/// unless there is [`sys::VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED`]. Where there is none, the kind says so.
pub fn job(handle: &Handle, flags: c_uint) -> Result<Job, Error> {
    let (mut kind, mut params, mut count) = (0, ptr::null_mut(), 0);
    // SAFETY: the domain is open, and the pointers are valid for the call.
    let asked =
        unsafe { sys::virDomainGetJobStats(handle.as_ptr(), &raw mut kind, &raw mut params, &raw mut count, flags) };
    judged(asked)?;
    let params = Params(params, count);
    Ok(Job {
        kind: kind.cast_unsigned(),
        operation: params.int(sys::VIR_DOMAIN_JOB_OPERATION).unwrap_or_default().cast_unsigned(),
        total: params.bytes(sys::VIR_DOMAIN_JOB_DISK_TOTAL).unwrap_or_default(),
        processed: params.bytes(sys::VIR_DOMAIN_JOB_DISK_PROCESSED).unwrap_or_default(),
        error: params.text(sys::VIR_DOMAIN_JOB_ERRMSG),
    })
}

/// An array that libvirt has allocated; null where it has no entries.
struct Params(sys::virTypedParameterPtr, c_int);

impl Params {
    fn int(&self, name: &CStr) -> Option<c_int> {
        let mut value = 0;
        // SAFETY: the array has as many entries as is said, and the other pointers are valid for the call.
        let found = unsafe { sys::virTypedParamsGetInt(self.0, self.1, name.as_ptr(), &raw mut value) };
        (found == 1).then_some(value)
    }

    fn bytes(&self, name: &CStr) -> Option<u64> {
        let mut value = 0;
        // SAFETY: as in `int`.
        let found = unsafe { sys::virTypedParamsGetULLong(self.0, self.1, name.as_ptr(), &raw mut value) };
        (found == 1).then_some(value)
    }

    fn text(&self, name: &CStr) -> Option<String> {
        let mut value = ptr::null();
        // SAFETY: as in `int`.
        let found = unsafe { sys::virTypedParamsGetString(self.0, self.1, name.as_ptr(), &raw mut value) };
        // SAFETY: the text that was found is the array's, which lives, and ends with a zero.
        (found == 1 && !value.is_null()).then(|| unsafe { CStr::from_ptr(value) }.to_string_lossy().into_owned())
    }
}

impl Drop for Params {
    fn drop(&mut self) {
        // SAFETY: the array comes from libvirt, and nothing refers to it any more.
        unsafe { sys::virTypedParamsFree(self.0, self.1) };
    }
}
