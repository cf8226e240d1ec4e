use std::{fs, os::unix::fs::PermissionsExt as _};

use super::{verdict::brief, *};

#[test]
fn progress_is_read() {
    assert_eq!(last_percent(b"    (0.00/100%)\r"), Some(0));
    assert_eq!(last_percent(b"    (1.00/100%)\r    (57.31/100%)\r"), Some(57));
    assert_eq!(last_percent(b"    (100.00/100%)\r\n"), Some(100));
    assert_eq!(last_percent(b"    (57."), None);
    assert_eq!(last_percent(b""), None);
}

#[test]
fn messages_name_no_path_of_the_host() {
    let said = "qemu-img: Could not open '/pool/tmp/source-1': Image is corrupt\n";
    assert_eq!(brief(said), "Could not open (file) Image is corrupt");
}

/// A qemu-img that does what the script says.
fn qemu_img(script: &str) -> (QemuImg, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("qemu-img");
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    (QemuImg(program), dir)
}

/// A file that it may look at or change.
fn file(dir: &tempfile::TempDir, name: &str) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, "bytes").unwrap();
    path
}

fn conversion<'a>(from: &'a Path, to: &'a Path, into: ImageFormat) -> Conversion<'a> {
    let max_data = Quantity::from_bytes(64 << 10);
    let (from, to) = (Source::File(from), Target::File(to, into));
    Conversion { from, format: ImageFormat::Raw, backing: None, to, virtual_size: 1 << 40, max_data }
}

#[tokio::test]
async fn it_sees_one_file_within_limits() {
    let limits = r#"[ "$(ulimit -v)" = 2097152 ] && [ "$(ulimit -t)" = 30 ] && [ "$(ulimit -f)" = 0 ] || exit 1
        [ "$4 $5" = "raw /source" ] && [ "$(cat $5)" = bytes ] && [ ! -e /target ] && echo '{"virtual-size": 5}'"#;
    let (qemu_img, dir) = qemu_img(limits);
    assert_eq!(qemu_img.info(Source::File(&file(&dir, "file")), ImageFormat::Raw).await.unwrap().virtual_size, 5);
}

#[tokio::test]
async fn its_ends_are_told_apart() {
    for (script, expected) in [
        ("echo 'qemu-img: error while writing at byte 0: No space left on device' >&2; exit 1", "the pool is full"),
        ("echo \"qemu-img: Could not open '/x': Failed to get \\\"write\\\" lock\" >&2; exit 1", "the file is in use"),
        ("kill -9 $$", "qemu-img came to its limits (it was ended by a signal)"),
        ("kill -XCPU $$", "qemu-img came to its limits (it needed a processor for too long)"),
        ("echo 'qemu-img: nonsense' >&2; exit 1", "qemu-img says: nonsense"),
    ] {
        let (qemu_img, dir) = qemu_img(script);
        assert_eq!(qemu_img.grow(&file(&dir, "file"), 1).await.unwrap_err().to_string(), expected);
    }
    let (_, dir) = qemu_img("");
    let missing = QemuImg("/nonexistent".into()).grow(&file(&dir, "file"), 1).await.unwrap_err();
    assert!(matches!(missing, QemuImgError::Unrunnable(_)), "{missing:?}");
    let (broken, dir) = qemu_img("");
    fs::write(&broken.0, "#!/nonexistent\n").unwrap();
    let error = broken.grow(&file(&dir, "file"), 1).await.unwrap_err();
    assert!(matches!(error, QemuImgError::Sandbox(_)), "{error:?}");
}

#[tokio::test]
async fn a_conversion_that_writes_too_much_is_ended() {
    use ImageFormat::{Qcow2, Raw};
    let data = "exec head -c 100000000 /dev/urandom > /target";
    // while it is at work, when it has ended, and by the limit on the size of files
    for (into, script) in [(Raw, format!("({data}); sleep 1000")), (Raw, data.to_owned()), (Qcow2, data.to_owned())] {
        let (qemu_img, dir) = qemu_img(&script);
        let (from, to) = (file(&dir, "from"), file(&dir, "to"));
        let virtual_size = if into == Raw { 1 << 40 } else { 1 << 20 };
        let conversion = Conversion { virtual_size, ..conversion(&from, &to, into) };
        let error = qemu_img.convert(conversion, |_| {}).await.unwrap_err();
        assert!(matches!(error, QemuImgError::TooMuchData(_)), "{error:?}");
    }
}

#[tokio::test]
async fn a_conversion_that_gets_no_further_is_ended() {
    let (qemu_img, dir) = qemu_img("exec sleep 1000000");
    let (from, to) = (file(&dir, "from"), file(&dir, "to"));
    let converted = qemu_img.convert(conversion(&from, &to, ImageFormat::Qcow2), |_| {});
    // From here on only the conversion waits for anything.
    tokio::time::pause();
    let error = converted.await.unwrap_err();
    assert!(matches!(error, QemuImgError::Limits("it got no further for two minutes")), "{error:?}");
}
