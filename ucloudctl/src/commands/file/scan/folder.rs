//! A drop folder, in which strangers may put anything: FOLDER/NAMESPACE/NAME.
//!
//! Links are never followed, and nothing but regular files is opened: what is looked at and what is opened are compared.

use std::{
    fs::{self, File, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use nix::{
    fcntl::{OFlag, open, openat},
    sys::stat::Mode,
};

use super::plan::is_temporary;

/// What tells whether a file is still the same, with the same bytes in it. Nobody can set the time of its last change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
    /// How many bytes it has.
    pub(super) size: u64,
    pub(super) modified: (i64, i64),
    pub(super) changed: (i64, i64),
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Something in the folder that is to become a File, or cannot.
#[derive(Debug)]
pub struct Entry {
    /// Where it is, in the folder.
    pub path: PathBuf,
    /// What it is, or why it becomes no File.
    pub seen: Result<Identity, String>,
}

/// All there is in the folder, but for what is hidden or has a temporary name.
pub fn list(folder: &Path) -> anyhow::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for namespace in names(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let inside = folder.join(&namespace);
        let refused = |why: &str| Entry { path: namespace.clone(), seen: Err(why.to_owned()) };
        match fs::symlink_metadata(&inside) {
            Ok(found) if found.is_dir() => match names(&inside) {
                Ok(names) => entries.extend(names.into_iter().filter_map(|name| look(folder, namespace.join(name)))),
                Err(error) => entries.push(refused(&format!("cannot list it: {error}"))),
            },
            Ok(found) if found.is_symlink() => entries.push(refused("is a link, and links are not followed")),
            Ok(_) => entries.push(refused("is in no namespace: move it into a folder that has the name of one")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => entries.push(refused(&format!("cannot look at it: {error}"))),
        }
    }
    Ok(entries)
}

fn names(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut names: Vec<_> =
        fs::read_dir(folder)?.map(|entry| Ok(PathBuf::from(entry?.file_name()))).collect::<io::Result<_>>()?;
    names.retain(|name| !is_temporary(&name.to_string_lossy()));
    names.sort();
    Ok(names)
}

/// What is at this place; nothing if it was taken away.
fn look(folder: &Path, path: PathBuf) -> Option<Entry> {
    let seen = match fs::symlink_metadata(folder.join(&path)) {
        Ok(found) if found.is_file() => Ok(Identity::of(&found)),
        Ok(found) if found.is_symlink() => Err("is a link, and links are not followed".to_owned()),
        Ok(_) => Err("is no regular file".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => Err(format!("cannot look at it: {error}")),
    };
    Some(Entry { path, seen })
}

/// Whether the file at this place is still this one.
pub fn is_still(folder: &Path, path: &Path, identity: &Identity) -> bool {
    look(folder, path.to_owned()).is_some_and(|entry| entry.seen.as_ref() == Ok(identity))
}

/// Opens the file `namespace/name` of the folder, which was seen to be this one.
pub fn open_file(folder: &Path, namespace: &str, name: &str, identity: &Identity) -> anyhow::Result<File> {
    // whatever was put in its place meanwhile is neither followed nor waited for
    let safe = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let inside = open(&folder.join(namespace), safe | OFlag::O_DIRECTORY, Mode::empty())
        .with_context(|| format!("cannot open the folder of namespace {namespace}"))?;
    let file = File::from(openat(&inside, name, safe, Mode::empty()).context("cannot open it")?);
    let found = file.metadata().context("cannot look at it")?;
    ensure!(found.is_file() && Identity::of(&found) == *identity, "it has changed meanwhile");
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::unistd::mkfifo;

    use super::*;

    fn identity(entries: &[Entry], path: &str) -> Result<Identity, String> {
        entries.iter().find(|entry| entry.path == Path::new(path)).unwrap().seen.clone()
    }

    #[test]
    fn only_regular_files_in_folders_of_namespaces_are_opened() {
        let (temporary, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let folder = temporary.path();
        let secret = elsewhere.path().join("secret");
        fs::write(&secret, "key").unwrap();
        fs::create_dir(folder.join("p")).unwrap();
        fs::write(folder.join("p/good.iso"), "bytes").unwrap();
        fs::write(folder.join("p/half.iso.part"), "by").unwrap();
        fs::write(folder.join("lost.iso"), "bytes").unwrap();
        fs::create_dir(folder.join("p/folder")).unwrap();
        fs::create_dir(folder.join(".hidden")).unwrap();
        fs::write(folder.join(".hidden/x"), "bytes").unwrap();
        symlink(&secret, folder.join("p/link")).unwrap();
        symlink(elsewhere.path(), folder.join("q")).unwrap();
        mkfifo(&folder.join("p/pipe"), Mode::S_IRWXU).unwrap();

        let entries = list(folder).unwrap();
        let paths: Vec<_> = entries.iter().map(|entry| entry.path.to_string_lossy().into_owned()).collect();
        assert_eq!(paths, ["lost.iso", "p/folder", "p/good.iso", "p/link", "p/pipe", "q"]);
        for (path, why) in [
            ("lost.iso", "is in no namespace"),
            ("p/folder", "is no regular file"),
            ("p/link", "is a link"),
            ("p/pipe", "is no regular file"),
            ("q", "is a link"),
        ] {
            assert!(identity(&entries, path).unwrap_err().starts_with(why), "{path}");
        }
        let good = identity(&entries, "p/good.iso").unwrap();
        open_file(folder, "p", "good.iso", &good).unwrap();
        for name in ["link", "pipe", "folder", "absent"] {
            assert!(open_file(folder, "p", name, &good).is_err(), "{name}");
        }
        assert!(open_file(folder, "q", "secret", &good).is_err());
        assert!(list(&folder.join("absent")).is_err());
    }

    #[test]
    fn a_file_that_was_changed_or_replaced_is_another() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path();
        fs::create_dir(folder.join("p")).unwrap();
        let path = folder.join("p/a");
        fs::write(&path, "bytes").unwrap();
        let before = identity(&list(folder).unwrap(), "p/a").unwrap();
        assert!(is_still(folder, Path::new("p/a"), &before));
        fs::write(folder.join("p/b"), "other").unwrap();
        fs::rename(folder.join("p/b"), &path).unwrap();
        assert!(!is_still(folder, Path::new("p/a"), &before), "of the same size, and no younger");
        let error = open_file(folder, "p", "a", &before).unwrap_err();
        assert!(error.to_string().contains("changed meanwhile"), "{error}");
        fs::remove_file(&path).unwrap();
        assert!(!is_still(folder, Path::new("p/a"), &before));
    }
}
