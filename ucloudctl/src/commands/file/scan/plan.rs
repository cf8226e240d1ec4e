//! What is to be done with what lies in a drop folder. Pure.

use std::time::{Duration, Instant};

use ucloud_types::image::Sha256;

use super::folder::Identity;

/// What failed is tried again after this long.
const RETRY: Duration = Duration::from_secs(30);
/// What an object's name may have (RFC 1123).
const LONGEST_NAME: usize = 253;

/// Whether it is the business of whoever writes it: hidden, or under a name that is not its last.
pub fn is_temporary(name: &str) -> bool {
    name.starts_with('.') || [".part", ".tmp", "~"].iter().any(|end| name.ends_with(end))
}

/// The name that a file should have to become an object of the same name; none if it has one.
pub fn better_name(name: &str) -> Option<String> {
    let letter = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { '-' };
    let mut better: String = name.chars().map(letter).collect();
    better.truncate(LONGEST_NAME);
    // each part between dots begins and ends with a letter or digit
    let parts: Vec<_> = better.split('.').map(|part| part.trim_matches('-')).filter(|part| !part.is_empty()).collect();
    let better = if parts.is_empty() { "file".to_owned() } else { parts.join(".") };
    (better != name).then_some(better)
}

/// What is known of a file.
#[derive(Debug)]
pub struct Known {
    /// What it was when it was looked at last.
    identity: Identity,
    /// Since when it has been so.
    since: Instant,
    /// When it failed last.
    failed: Option<Instant>,
    /// Its checksum, if that was computed.
    pub sum: Option<Sha256>,
    /// Whether it is uploaded.
    pub uploaded: bool,
}

/// What is to be done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is to be left until it has not changed for a while.
    Settle,
    /// It is to be left.
    Leave,
    /// It is to be uploaded.
    Upload,
}

impl Known {
    /// What is known of a file that was seen for the first time.
    pub fn new(identity: Identity, now: Instant) -> Self {
        Self { identity, since: now, failed: None, sum: None, uploaded: false }
    }

    /// The file was seen again; whoever writes it must leave it alone for `settle`.
    pub fn seen(&mut self, identity: Identity, now: Instant, settle: Duration) -> Step {
        if identity != self.identity {
            *self = Self::new(identity, now);
        }
        if self.uploaded {
            return Step::Leave;
        }
        if now.duration_since(self.since) < settle || identity.size == 0 {
            return Step::Settle;
        }
        match self.failed {
            Some(failed) if now.duration_since(failed) < RETRY => Step::Leave,
            _ => Step::Upload,
        }
    }

    /// The checksum of what may be uploaded in part, if the file is not this one any more.
    pub fn half(&self, identity: Option<Identity>) -> Option<&Sha256> {
        self.sum.as_ref().filter(|_| !self.uploaded && identity != Some(self.identity))
    }

    /// It could not be uploaded.
    pub fn failed(&mut self, now: Instant) {
        self.failed = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: Duration = Duration::from_secs(5);

    fn of_size(size: u64) -> Identity {
        Identity { size, ..Identity::default() }
    }

    #[test]
    fn a_file_is_uploaded_when_it_is_left_alone_and_once() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut known = Known::new(of_size(1), begin);
        assert_eq!(known.seen(of_size(1), at(4), SETTLE), Step::Settle);
        assert_eq!(known.seen(of_size(2), at(5), SETTLE), Step::Settle, "it grows");
        assert_eq!(known.seen(of_size(2), at(9), SETTLE), Step::Settle);
        assert_eq!(known.seen(of_size(2), at(10), SETTLE), Step::Upload);
        known.failed(at(11));
        known.sum = Some(Sha256::from([1; 32]));
        assert_eq!(known.seen(of_size(2), at(40), SETTLE), Step::Leave);
        assert_eq!(known.seen(of_size(2), at(41), SETTLE), Step::Upload, "tried again");
        assert!(known.half(Some(of_size(2))).is_none() && known.half(Some(of_size(3))).is_some());
        assert!(known.half(None).is_some(), "it was taken away");
        known.uploaded = true;
        assert!(known.half(None).is_none());
        assert_eq!(known.seen(of_size(2), at(999), SETTLE), Step::Leave);
        assert_eq!(known.seen(of_size(3), at(999), SETTLE), Step::Settle, "another file under its name");
        assert!(known.sum.is_none());
        assert_eq!(known.seen(of_size(0), at(1000), SETTLE), Step::Settle);
        assert_eq!(known.seen(of_size(0), at(2000), SETTLE), Step::Settle, "nothing is in it yet");
    }

    #[test]
    fn names_that_objects_can_have() {
        for name in ["installer.iso", "a", "debian-12.qcow2.xz", "0"] {
            assert_eq!(better_name(name), None, "{name}");
        }
        for (name, better) in [
            ("Debian 12.ISO", "debian-12.iso"),
            ("a_b", "a-b"),
            ("-a-.-b", "a.b"),
            ("a..b", "a.b"),
            ("ünï", "n"),
            ("___", "file"),
        ] {
            assert_eq!(better_name(name).as_deref(), Some(better), "{name}");
            assert_eq!(better_name(better), None, "{better}");
        }
        assert_eq!(better_name(&"a".repeat(300)).map(|better| better.len()), Some(253));
    }

    #[test]
    fn what_is_being_written_has_another_name() {
        for name in [".installer.iso.Xy12", "installer.iso.part", "installer.tmp", "notes~"] {
            assert!(is_temporary(name), "{name}");
        }
        assert!(!is_temporary("installer.iso") && !is_temporary("part"));
    }
}
