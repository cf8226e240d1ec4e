use std::{io::Write as _, process::Command, process::Stdio};

use tokio::fs::File;
use ucloud_types::Quantity;

use super::*;

const PROGRAMS: [(Compression, &str); 3] =
    [(Compression::Gz, "gzip"), (Compression::Xz, "xz"), (Compression::Zst, "zstd")];

/// What the program that everybody uses makes of these bytes.
fn pack(program: &str, arguments: &[&str], bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(["-c"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let bytes = bytes.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    output.stdout
}

/// Bytes that do not repeat themselves.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 7_u32;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    })
    .take(length)
    .collect()
}

async fn unpacked(packed: &[u8], compression: Compression, limit: u64) -> Result<Vec<u8>, FetchError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut target = Target::new(File::from_std(file.reopen().unwrap()), Quantity::from_bytes(limit));
    unpack(packed, compression, &mut target).await?;
    target.finish().await?;
    Ok(std::fs::read(file.path()).unwrap())
}

#[tokio::test]
async fn one_or_more_streams_are_unpacked() {
    let (first, second) = (noise(300_000), noise(7));
    let both = [first.as_slice(), &second].concat();
    for (compression, program) in PROGRAMS {
        let (one, two, none) = (pack(program, &[], &first), pack(program, &[], &second), pack(program, &[], b""));
        assert!(unpacked(&one, compression, 1 << 20).await.unwrap() == first, "{program}");
        let all = [one, none.clone(), two].concat();
        assert!(unpacked(&all, compression, 1 << 20).await.unwrap() == both, "{program}");
        assert_eq!(unpacked(&none, compression, 1 << 20).await.unwrap(), b"", "{program}");
    }
    let skipped = [&b"\x50\x2a\x4d\x18\x03\0\0\0abc"[..], &pack("zstd", &[], &first)].concat();
    assert!(unpacked(&skipped, Compression::Zst, 1 << 20).await.unwrap() == first);
    let padded = [pack("xz", &[], &first), vec![0; 8]].concat();
    assert!(unpacked(&padded, Compression::Xz, 1 << 20).await.unwrap() == first);
}

#[tokio::test]
async fn what_is_cut_off_is_refused_wherever_that_is() {
    for (compression, program) in PROGRAMS {
        let packed = pack(program, &[], &noise(2000));
        for length in format::COMPRESSION_HEAD..packed.len() {
            let error = unpacked(&packed[..length], compression, 1 << 20).await.unwrap_err();
            assert!(matches!(error, FetchError::Unpack { .. }), "{program} at {length}: {error:?}");
        }
    }
}

#[tokio::test]
async fn what_was_changed_or_has_something_behind_it_is_refused() {
    for (compression, program) in PROGRAMS {
        let packed = pack(program, &[], &noise(2000));
        let mut changed = packed.clone();
        changed[packed.len() / 2] ^= 0x10;
        for bytes in [changed, [&packed, &b"garbage behind it"[..]].concat(), [&packed, &packed[..20]].concat()] {
            let error = unpacked(&bytes, compression, 1 << 20).await.unwrap_err();
            assert!(matches!(error, FetchError::Unpack { .. }), "{program}: {error:?}");
        }
    }
}

#[tokio::test]
async fn bombs_end_at_the_limit() {
    let zeros = vec![0; 8 << 20];
    for (compression, program) in PROGRAMS {
        let packed = pack(program, &[], &zeros);
        assert!(packed.len() < 16384);
        assert!(unpacked(&packed, compression, 8 << 20).await.is_ok());
        let error = unpacked(&packed, compression, (8 << 20) - 1).await.unwrap_err();
        assert!(matches!(error, FetchError::UnpackedTooLarge(_)), "{program}: {error:?}");
    }
}

#[tokio::test]
async fn no_window_is_larger_than_what_is_usual() {
    let bytes = noise(1000);
    for (compression, program, usual, more) in
        [(Compression::Xz, "xz", "-9", "--lzma2=dict=1GiB"), (Compression::Zst, "zstd", "--long=27", "--long=30")]
    {
        assert!(unpacked(&pack(program, &[usual], &bytes), compression, 1 << 20).await.unwrap() == bytes);
        let error = unpacked(&pack(program, &[more], &bytes), compression, 1 << 20).await.unwrap_err();
        assert!(matches!(error, FetchError::Unpack { .. }), "{program}: {error:?}");
    }
}

#[tokio::test]
async fn a_claim_must_be_true() {
    for (compression, program) in PROGRAMS {
        let packed = pack(program, &[], b"x");
        for claimed in [Compression::Gz, Compression::Xz, Compression::Zst] {
            let found = unpacked(&packed, claimed, 1 << 20).await;
            assert_eq!(found.is_ok(), claimed == compression, "{found:?}");
        }
    }
    for (bytes, word) in [(&b"QFI\xfb rest"[..], "is qcow2"), (b"", "is raw"), (b"\x1f\x8b", "compressed with gz")] {
        let error = unpacked(bytes, Compression::Xz, 1 << 20).await.unwrap_err().to_string();
        assert!(error.contains("claimed to be compressed with xz") && error.contains(word), "{error}");
    }
}
