//! Hostile images, and good ones of all formats, as `hack/hostile-images` makes them: what is refused, by which words,
//! and that nothing is left of it.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};
use ucloud_agent_core::{BlockStore as _, HostError, block_store::StoredImage};
use ucloud_types::image::{
    Compression::{self, Gz, Xz, Zst},
    ImageFormat::{self, Qcow2, Raw, Vdi, Vhdx, Vmdk},
};

use crate::{
    images::assert_refused,
    pool::{Lab, file, qemu_img, sha256},
};

type Claim = (ImageFormat, Option<Compression>);

const QCOW2: Claim = (Qcow2, None);
const VMDK: Claim = (Vmdk, None);
const VHDX: Claim = (Vhdx, None);
const VDI: Claim = (Vdi, None);
const RAW: Claim = (Raw, None);
const RAW_GZ: Claim = (Raw, Some(Gz));
const RAW_XZ: Claim = (Raw, Some(Xz));
const RAW_ZST: Claim = (Raw, Some(Zst));

/// What is made of the same disk.
const GOOD: [(&str, Claim); 17] = [
    ("good.raw", RAW),
    ("good.raw.gz", RAW_GZ),
    ("good.raw.xz", RAW_XZ),
    ("good.raw.zst", RAW_ZST),
    ("good.qcow2", QCOW2),
    ("good-compressed.qcow2", QCOW2),
    ("good-v2.qcow2", QCOW2),
    ("good.qcow2.xz", (Qcow2, Some(Xz))),
    ("good.vmdk", VMDK),
    ("good-stream.vmdk", VMDK),
    ("good.vmdk.gz", (Vmdk, Some(Gz))),
    ("good.vhdx", VHDX),
    ("good-fixed.vhdx", VHDX),
    ("good.vhdx.xz", (Vhdx, Some(Xz))),
    ("good.vdi", VDI),
    ("good-static.vdi", VDI),
    ("good.vdi.zst", (Vdi, Some(Zst))),
];

/// What is refused, claimed as what: by which reason, and which word of the message.
const HOSTILE: &[(&str, Claim, &str, &str)] = &[
    ("backing-shadow.qcow2", QCOW2, "ImageRefused", "backing file"),
    ("backing-json.qcow2", QCOW2, "ImageRefused", "backing file"),
    ("backing-nbd.qcow2", QCOW2, "ImageRefused", "backing file"),
    ("backing-http.qcow2", QCOW2, "ImageRefused", "backing file"),
    ("data-file.qcow2", QCOW2, "ImageRefused", "external file"),
    ("data-file-hosts.qcow2", QCOW2, "ImageRefused", "external file"),
    ("text.vmdk", VMDK, "FormatMismatch", "a vmdk descriptor"),
    ("text.vmdk", RAW, "FormatMismatch", "a vmdk descriptor"),
    ("text-without-mark.vmdk", VMDK, "FormatMismatch", "is raw"),
    ("extent-flat.vmdk", VMDK, "ImageRefused", "data are in another file"),
    ("extent-sparse.vmdk", VMDK, "ImageRefused", "another folder"),
    ("extent-second.vmdk", VMDK, "ImageRefused", "several files"),
    ("extent-without-size.vmdk", VMDK, "ImageRefused", "0 bytes"),
    ("extent.vmdk", VMDK, "ImageRefused", "several extents"),
    ("parent.vmdk", VMDK, "ImageRefused", "differences to another file"),
    ("parent-in-comment.vmdk", VMDK, "ImageRefused", "differences to another file"),
    ("parent-elsewhere.vmdk", VMDK, "ImageRefused", "where its descriptor is"),
    ("cowd.vmdk", VMDK, "FormatMismatch", "COWD"),
    ("parent.vhdx", VHDX, "ImageRefused", "differences to another file"),
    ("differencing.vdi", VDI, "ImageRefused", "differences to another file"),
    ("undo.vdi", VDI, "ImageRefused", "differences to another file"),
    ("linked.vdi", VDI, "ImageRefused", "names a parent"),
    ("parent.vdi", VDI, "ImageRefused", "names a parent"),
    ("size-bomb.qcow2", QCOW2, "ImageRefused", "bytes"),
    ("l1-bomb.qcow2", QCOW2, "ImageRefused", "L1 table"),
    ("refcount-bomb.qcow2", QCOW2, "ImageRefused", "refcount table"),
    ("snapshot-bomb.qcow2", QCOW2, "ImageRefused", "snapshots"),
    ("clusters-of-2-gib.qcow2", QCOW2, "ImageRefused", "clusters"),
    ("size-bomb.vmdk", VMDK, "ImageRefused", "bytes"),
    ("grain-bomb.vmdk", VMDK, "ImageRefused", "grains"),
    ("table-bomb.vmdk", VMDK, "ImageRefused", "grain tables"),
    ("size-bomb.vhdx", VHDX, "ImageRefused", "bytes"),
    ("size-bomb.vdi", VDI, "ImageRefused", "bytes"),
    ("blocks-bomb.vdi", VDI, "ImageRefused", "number of its blocks"),
    ("alias-bomb.qcow2", QCOW2, "ImageTooLarge", "holds more than 64Mi of data"),
    ("bomb.raw.gz", RAW_GZ, "ImageTooLarge", "unpacks to more than 64Mi"),
    ("bomb.raw.xz", RAW_XZ, "ImageTooLarge", "unpacks to more than 64Mi"),
    ("bomb.raw.zst", RAW_ZST, "ImageTooLarge", "unpacks to more than 64Mi"),
    ("window-bomb.vdi.xz", (Vdi, Some(Xz)), "ImageRefused", "in 128 MiB of memory"),
    ("window-bomb.vdi.zst", (Vdi, Some(Zst)), "ImageRefused", "in 128 MiB of memory"),
    ("l1-outside.qcow2", QCOW2, "ImageRefused", "broken or cut off"),
    ("l1-is-refcount-table.qcow2", QCOW2, "ImageRefused", "broken or cut off"),
    ("l1-is-itself.qcow2", QCOW2, "ImageRefused", "broken or cut off"),
    ("l2-is-itself.qcow2", QCOW2, "ImageRefused", "broken or cut off"),
    ("corrupt.qcow2", QCOW2, "ImageRefused", "marked as corrupt"),
    ("unknown-feature.qcow2", QCOW2, "ImageRefused", "features"),
    ("encrypted.qcow2", QCOW2, "ImageRefused", "encrypted"),
    ("version-9.qcow2", QCOW2, "ImageRefused", "version 9"),
    ("stump.qcow2", QCOW2, "ImageRefused", "cut off"),
    ("grain-outside.vmdk", VMDK, "ImageRefused", "grain table"),
    ("log.vhdx", VHDX, "ImageRefused", "not closed properly"),
    ("regions-differ.vhdx", VHDX, "ImageRefused", "a region"),
    ("checksum.vhdx", VHDX, "ImageRefused", "broken or cut off"),
    ("block-twice.vdi", VDI, "ImageRefused", "broken or cut off"),
    ("block-outside.vdi", VDI, "ImageRefused", "broken or cut off"),
    ("other.vpc", RAW, "FormatMismatch", "is vhd"),
    ("other.qed", RAW, "FormatMismatch", "is qed"),
    ("other.parallels", RAW, "FormatMismatch", "is parallels"),
    ("empty", RAW, "ImageRefused", "empty"),
    ("empty.gz", RAW_GZ, "ImageRefused", "empty"),
    ("page.html", RAW, "FormatMismatch", "a web page"),
    ("gzip.vdi", VDI, "FormatMismatch", "spec.compression: gz"),
    ("gzip.vdi", (Vdi, Some(Gz)), "ImageRefused", "cannot be unpacked"),
    ("qcow2.vdi", VDI, "FormatMismatch", "is qcow2"),
    ("qcow2.vdi", QCOW2, "ImageRefused", "version"),
    ("garbage.raw.gz", RAW_GZ, "ImageRefused", "cannot be unpacked"),
    ("garbage.raw.xz", RAW_XZ, "ImageRefused", "cannot be unpacked"),
    ("garbage.raw.zst", RAW_ZST, "ImageRefused", "cannot be unpacked"),
    ("cut-off.raw.gz", RAW_GZ, "ImageRefused", "cannot be unpacked"),
    ("cut-off.raw.xz", RAW_XZ, "ImageRefused", "cannot be unpacked"),
    ("cut-off.raw.zst", RAW_ZST, "ImageRefused", "cannot be unpacked"),
    ("changed.raw.gz", RAW_GZ, "ImageRefused", "cannot be unpacked"),
    ("changed.raw.xz", RAW_XZ, "ImageRefused", "cannot be unpacked"),
    ("changed.raw.zst", RAW_ZST, "ImageRefused", "cannot be unpacked"),
    ("nested.raw.gz", RAW_GZ, "FormatMismatch", "compressed with gz again"),
    ("nested.raw.xz", RAW_XZ, "FormatMismatch", "compressed with zst again"),
    ("good.raw.gz", RAW, "FormatMismatch", "spec.compression: gz"),
    ("good.raw.gz", RAW_XZ, "FormatMismatch", "is compressed with gz"),
    ("good.raw", RAW_ZST, "FormatMismatch", "is raw"),
    ("good.qcow2", RAW_ZST, "FormatMismatch", "is qcow2"),
    ("good.qcow2.xz", RAW_XZ, "FormatMismatch", "is qcow2"),
    ("good.raw.xz", (Vmdk, Some(Xz)), "FormatMismatch", "is raw"),
];

struct Corpus(Lab);

impl Corpus {
    fn new() -> Result<Self> {
        let lab = Lab::with(|config| {
            config.max_source = "64Mi".parse().unwrap();
            config.max_disk = "8Gi".parse().unwrap();
        })?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../hack/hostile-images");
        let made = Command::new(script).arg(lab.source("")).output()?;
        ensure!(made.status.success(), "hack/hostile-images: {}", String::from_utf8_lossy(&made.stderr));
        Ok(Self(lab))
    }

    async fn import(&self, uid: &str, name: &str, (format, compression): Claim) -> Result<StoredImage, HostError> {
        let mut request = self.0.request(uid, file(name), format);
        request.compression = compression;
        self.0.import(&request).await
    }

    /// The content of an image, once it is found to hold what all good ones do.
    fn assert_same_disk(&self, image: &StoredImage) -> Result<PathBuf> {
        let content = self.0.pool_dir().join(format!("images/sha256/{}.qcow2", image.sha256.hex()));
        qemu_img(&["compare", "-f", "raw", "-F", "qcow2"], &[&self.0.source("good.raw"), &content])?;
        Ok(content)
    }

    /// What was refused names no path of the host, and nothing is left of it.
    fn assert_nothing_is_left(&self, name: &str, error: &HostError) -> Result<()> {
        assert!(!error.message.contains(self.0.dir.path().to_str().unwrap()), "{name}: a path of the host: {error}");
        assert_eq!(self.0.contents()?, [""; 0], "{name}");
        Ok(())
    }
}

#[tokio::test]
async fn hostile_images_are_refused_and_leave_nothing() -> Result<()> {
    let corpus = Corpus::new()?;
    let known: BTreeSet<_> = HOSTILE.iter().map(|(name, ..)| *name).chain(GOOD.map(|(name, _)| name)).collect();
    let made: BTreeSet<_> =
        fs::read_dir(corpus.0.source(""))?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
    assert_eq!(made.iter().map(|name| name.to_str().unwrap()).collect::<BTreeSet<_>>(), known);
    for (name, claim, reason, word) in HOSTILE {
        let error = corpus.import("a", name, *claim).await.expect_err(name);
        assert_refused(&error, reason, word);
        corpus.assert_nothing_is_left(name, &error)?;
    }
    // Whatever an image is claimed to be but what it is.
    for (name, claim) in GOOD.iter().filter(|(_, claim)| claim.1.is_none()) {
        for other in [RAW, QCOW2, VMDK, VHDX, VDI].into_iter().filter(|other| other != claim) {
            let error = corpus.import("a", name, other).await.expect_err(name);
            assert_refused(&error, "FormatMismatch", claim.0.as_str());
            corpus.assert_nothing_is_left(name, &error)?;
        }
    }
    Ok(())
}

/// Whatever is left of an image, unless all that is missing is room for more at its end. (Of a part of a qcow2 file's last
/// cluster nobody can tell that it is missing, but by the checksum.)
#[tokio::test]
async fn a_part_of_an_image_is_refused() -> Result<()> {
    const PARTS: usize = 16;
    let corpus = Corpus::new()?;
    for (name, claim) in GOOD.iter().filter(|(name, (format, _))| *format != Raw && !name.starts_with("good-fixed")) {
        let whole = fs::read(corpus.0.source(name))?;
        for part in 0..PARTS {
            fs::write(corpus.0.source("part"), &whole[..whole.len() * part / PARTS])?;
            match corpus.import("a", "part", *claim).await {
                Ok(image) => {
                    corpus.assert_same_disk(&image)?;
                    corpus.0.files.remove_image(&corpus.0.pool(), "a").await?;
                }
                Err(error) => {
                    assert!(error.terminal, "{part}/{PARTS} of {name}: {error}");
                    corpus.assert_nothing_is_left(name, &error)?;
                }
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn good_images_of_all_formats_hold_the_same_disk() -> Result<()> {
    let corpus = Corpus::new()?;
    for (name, claim) in GOOD {
        let image = corpus.import(&name.replace('.', "-"), name, claim).await?;
        // the checksum is that of what was published, not of what it unpacks to
        assert_eq!(image.sha256, sha256(&corpus.0.source(name))?, "{name}");
        assert_eq!(image.virtual_size.bytes(), 24 << 20, "{name}");
        let content = corpus.assert_same_disk(&image)?;
        assert_eq!(content.metadata()?.uid(), 0, "{name}");
    }
    assert!(corpus.0.contents()?.iter().all(|path| !path.starts_with("tmp")));
    Ok(())
}
