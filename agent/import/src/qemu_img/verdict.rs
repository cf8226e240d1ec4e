//! What it means how qemu-img has ended.

use std::{os::unix::process::ExitStatusExt as _, process::ExitStatus};

use super::QemuImgError;
use crate::sandbox;

/// The end of what wrote more than the limit on the size of files permits.
pub const FILE_TOO_LARGE: &str = "it wrote more than it may";

/// What an end means. Of what a signal has ended, bwrap tells as a shell does.
pub fn judge(status: ExitStatus, stderr: &[u8]) -> Result<(), QemuImgError> {
    /// qemu-img check found clusters that nothing uses. No other command ends so.
    const LEAKS: i32 = 3;
    const SIGXCPU: i32 = 128 + 24;
    const SIGXFSZ: i32 = 128 + 25;
    if status.success() || status.code() == Some(LEAKS) {
        return Ok(());
    }
    let said = String::from_utf8_lossy(stderr);
    let complaint = sandbox::complaint(&said).map(brief);
    let said = brief(&said);
    Err(if let Some(complaint) = complaint {
        QemuImgError::Sandbox(complaint)
    } else if status.code() == Some(SIGXCPU) {
        QemuImgError::Limits("it needed a processor for too long")
    } else if status.code() == Some(SIGXFSZ) || said.contains("File too large") {
        QemuImgError::Limits(FILE_TOO_LARGE)
    } else if status.signal().is_some() || status.code() > Some(128) {
        QemuImgError::Limits("it was ended by a signal")
    } else if said.contains("No space left on device") || said.contains("Disk quota exceeded") {
        QemuImgError::Full
    } else if said.contains("Failed to get") && said.contains("lock") {
        QemuImgError::InUse
    } else if said.contains("Cannot allocate memory") {
        QemuImgError::Limits("it needs too much memory")
    } else if said.contains("error while reading") {
        QemuImgError::Unreadable(said)
    } else {
        QemuImgError::Failed(said)
    })
}

/// What it said, without the paths of the host, on one short line.
pub fn brief(said: &str) -> String {
    let is_path = |word: &&str| word.trim_start_matches(['\'', '"']).starts_with('/');
    let words = said.split_whitespace().map(|word| if is_path(&word) { "(file)" } else { word });
    let line = words.skip_while(|word| *word == "qemu-img:").collect::<Vec<_>>().join(" ");
    line.chars().take(300).collect()
}
