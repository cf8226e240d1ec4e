//! Sources in the import folder: `IMPORT/NAMESPACE/NAME`, and never anything else, whatever the names are and
//! whoever has put symlinks there.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
};

use super::{FetchError, Origin, Source};

/// Opens a file of the import folder. Blocks.
pub fn open(import_dir: &Path, namespace: &str, name: &str) -> Result<Source, FetchError> {
    let shown = format!("{namespace}/{name}");
    let no_file = |why| FetchError::NoFile { name: shown.clone(), why };
    let read = |source| FetchError::Read { name: shown.clone(), source };
    if ![namespace, name].iter().all(|part| is_plain(part)) {
        return Err(no_file("is no name of a file"));
    }
    let missing = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => FetchError::NotFound(shown.clone()),
        _ => read(error),
    };
    let flags = OFlag::O_DIRECTORY | OFlag::O_PATH;
    let folder = OpenOptions::new().read(true).custom_flags(flags.bits()).open(import_dir).map_err(missing)?;
    let how = OpenHow::new()
        // Opening a FIFO would else wait for its writer.
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let file = match openat2(&folder, shown.as_str(), how) {
        Ok(file) => fs::File::from(file),
        Err(Errno::ELOOP) => return Err(no_file("is a symlink, or lies behind one; put the file itself there")),
        Err(errno) => return Err(missing(errno.into())),
    };
    let metadata = file.metadata().map_err(read)?;
    if !metadata.is_file() {
        return Err(no_file("is no regular file"));
    }
    Ok(Source { size: Some(metadata.len()), name: shown, bytes: Origin::File(file.into()) })
}

/// One component of a path, and a real one.
fn is_plain(part: &str) -> bool {
    !matches!(part, "" | "." | "..") && !part.contains(['/', '\0'])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    #[test]
    fn only_regular_files_beneath_the_namespace_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let import = dir.path().join("import");
        fs::create_dir_all(import.join("demo/folder")).unwrap();
        fs::write(import.join("demo/image"), "bytes").unwrap();
        fs::write(dir.path().join("secret"), "secret").unwrap();
        symlink(dir.path().join("secret"), import.join("demo/absolute")).unwrap();
        symlink("image", import.join("demo/relative")).unwrap();
        symlink("demo", import.join("linked")).unwrap();
        mkfifo(&import.join("demo/fifo"), Mode::S_IRWXU).unwrap();

        assert_eq!(open(&import, "demo", "image").map(|source| source.size).unwrap(), Some(5));
        for (namespace, name) in [
            ("demo", "absolute"),
            ("demo", "relative"),
            ("linked", "image"),
            ("demo", "fifo"),
            ("demo", "folder"),
            ("demo", ".."),
            ("demo", "../demo/image"),
            ("demo", "../../secret"),
            ("..", "secret"),
            (".", "demo"),
            ("demo", ""),
            ("", "demo"),
            ("demo", "/etc/passwd"),
            ("demo", "image\0"),
        ] {
            match open(&import, namespace, name) {
                Err(error @ FetchError::NoFile { .. }) => assert!(error.reported("import").terminal),
                Err(error) => panic!("{namespace}/{name}: {error}"),
                Ok(_) => panic!("{namespace}/{name} was opened"),
            }
        }
        for (import, namespace, name) in
            [(&import, "demo", "absent"), (&import, "absent", "image"), (&dir.path().join("absent"), "demo", "image")]
        {
            let Err(error) = open(import, namespace, name) else { panic!("{namespace}/{name} was opened") };
            let error = error.reported("import");
            assert_eq!((error.reason, error.terminal), ("SourceNotFound", false));
        }
    }
}
