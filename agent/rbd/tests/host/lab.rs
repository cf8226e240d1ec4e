//! A small Ceph, an import folder and the adapter.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tokio::sync::watch;
use ucloud_agent_core::{
    BlockStore as _, HostError,
    block_store::{Content, DiskId, DiskRequest, ImageRequest, Pool, PoolBackend, RbdPool, StoredImage},
    file_store::FileRequest,
};
use ucloud_agent_import::{ImportConfig, Importer, Kept, OpenUpload, Uploaded};
use ucloud_agent_rbd::{Pools, Rbd, Uploads};
use ucloud_types::image::{FileSource, ImageFormat, ImageSource, Sha256};

pub const MIB: u64 = 1 << 20;
/// The size of the File that tests upload.
pub const FILE_SIZE: u64 = 9 * MIB + 7;
/// How long Ceph may take to answer.
const TIMEOUT: Duration = Duration::from_secs(3);

pub struct Lab {
    // first, so that its connections are closed before the cluster ends
    pub rbd: Rbd,
    cluster: Child,
    dir: TempDir,
}

/// Runs a test in a network namespace that it has for itself, with a Ceph in it.
pub fn lab<F>(test: impl FnOnce(Lab) -> F + Send + 'static) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).context("tests over a real Ceph need root")?;
        run("ip", &["link", "set", "lo", "up"])?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build()?;
        let lab = Lab::start()?;
        runtime.block_on(async { tokio::time::timeout(Duration::from_mins(4), test(lab)).await })?
    };
    thread::spawn(run).join().unwrap()
}

impl Lab {
    fn start() -> Result<Self> {
        let dir = TempDir::with_prefix("ucloud-rbd-")?;
        let cluster = ceph(dir.path())?;
        fs::create_dir_all(dir.path().join("import/demo"))?;
        let rbd = adapter(dir.path(), "scratch")?;
        Ok(Self { rbd, cluster, dir })
    }

    /// The adapter of another host.
    pub fn other_host(&self) -> Result<Rbd> {
        adapter(self.dir.path(), "other")
    }

    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    pub fn conf(&self) -> PathBuf {
        self.dir.path().join("ceph/ceph.conf")
    }

    pub fn pool(&self) -> Pool {
        self.pool_of("ucloud")
    }

    pub fn pool_of(&self, user: &str) -> Pool {
        pool(&self.conf(), user)
    }

    /// A raw disk of this many MiB in the import folder, with `mark` at its beginning and at its end.
    pub fn raw(&self, name: &str, mebibytes: u64, mark: &[u8]) -> Result<PathBuf> {
        use std::os::unix::fs::FileExt as _;
        let path = self.dir.path().join("import/demo").join(name);
        let file = fs::File::create(&path)?;
        file.set_len(mebibytes * MIB)?;
        file.write_all_at(mark, 0)?;
        file.write_all_at(mark, mebibytes * MIB - mark.len() as u64)?;
        Ok(path)
    }

    pub fn request(&self, uid: &str, name: &str, format: ImageFormat) -> ImageRequest {
        ImageRequest {
            uid: uid.into(),
            namespace: "demo".into(),
            name: "image".into(),
            pool: self.pool(),
            source: ImageSource { file: Some(FileSource { name: name.into() }), ..ImageSource::default() },
            format,
            compression: None,
            checksum: None,
        }
    }

    pub async fn import(&self, uid: &str, name: &str) -> Result<StoredImage, HostError> {
        let (percent, _listener) = watch::channel(0);
        self.rbd.import_image(&self.request(uid, name, ImageFormat::Raw), &percent).await
    }

    pub fn disk(&self, vm_uid: &str, image_uid: &str, size: Option<&str>) -> Result<DiskRequest> {
        Ok(DiskRequest {
            id: DiskId { owner_uid: vm_uid.into(), name: "root".into() },
            pool: self.pool(),
            content: Content::Image(image_uid.into()),
            size: size.map(str::parse).transpose()?,
        })
    }

    /// Makes an image, and takes its header away: whoever made it died in the middle.
    pub fn half_made(&self, image: &str) -> Result<()> {
        self.ceph("rbd", &["--pool", "vms", "create", "--size", "5", image])?;
        let info = self.ceph("rbd", &["--pool", "vms", "info", "--format", "json", image])?;
        let id = info.split_once("\"id\":\"").and_then(|(_, rest)| rest.split_once('"')).context("no id")?.0;
        self.ceph("rados", &["--pool", "vms", "rm", &format!("rbd_header.{id}")]).map(drop)
    }

    /// Runs one of QEMU's programs with an image in the pool.
    pub fn run_on(&self, program: &str, image: &str, arguments: &[&str]) -> Result<String> {
        let image = format!("rbd:vms/{image}:id=ucloud:conf={}", self.conf().display());
        run(program, &[&["-f", "raw"], arguments, &[&image]].concat())
    }

    /// What one of Ceph's commands says, run by its administrator.
    pub fn ceph(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let conf = self.conf();
        let all: Vec<&str> = ["--conf", conf.to_str().context("path")?].iter().chain(arguments).copied().collect();
        run(program, &all)
    }

    /// The names of all images in the pool, in the trash or not.
    pub fn contents(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> = self.ceph("rbd", &["--pool", "vms", "ls"])?.lines().map(str::to_owned).collect();
        let trash = self.ceph("rbd", &["--pool", "vms", "trash", "ls"])?;
        names.extend(trash.lines().map(|line| format!("trash: {line}")));
        names.sort();
        Ok(names)
    }

    /// All objects of the pool that belong to images.
    pub fn objects(&self) -> Result<Vec<String>> {
        let listed = self.ceph("rados", &["--pool", "vms", "ls"])?;
        let ours = |name: &&str| {
            name.starts_with("rbd_data.") || name.starts_with("rbd_header.") || name.starts_with("rbd_id.")
        };
        Ok(listed.lines().filter(ours).map(str::to_owned).collect())
    }

    /// Waits until no object is left. Those of snapshots are removed by the OSD, in its own time.
    pub async fn no_objects(&self) -> Result<()> {
        let gone = tokio::time::timeout(Duration::from_mins(1), async {
            while !self.objects()?.is_empty() {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            anyhow::Ok(())
        });
        gone.await.with_context(|| format!("left after a minute: {:?}", self.objects()))?
    }

    /// The bytes of an image in the pool.
    pub fn bytes(&self, image: &str) -> Result<Vec<u8>> {
        let file = self.dir.path().join("exported");
        let _ = fs::remove_file(&file);
        self.ceph("rbd", &["--pool", "vms", "export", "--no-progress", image, file.to_str().context("path")?])?;
        Ok(fs::read(file)?)
    }

    /// Ends the cluster, and makes another one in its place.
    pub fn remake(&mut self) -> Result<()> {
        drop(self.cluster.stdin.take());
        self.cluster.wait()?;
        fs::remove_dir_all(self.dir.path().join("ceph"))?;
        self.cluster = ceph(self.dir.path())?;
        Ok(())
    }

    /// Stops the OSD where it is, or lets it go on.
    pub fn signal_osd(&self, signal: Signal) -> Result<()> {
        let pid = fs::read_to_string(self.dir.path().join("ceph/osd.pid"))?;
        Ok(kill(Pid::from_raw(pid.trim().parse()?), signal)?)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.cluster.stdin.take());
        let _ = self.cluster.wait();
    }
}

fn ceph(dir: &Path) -> Result<Child> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../hack/lib/small-ceph");
    let mut cluster =
        Command::new(script).arg(dir.join("ceph")).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut said = String::new();
    BufReader::new(cluster.stdout.take().context("no output")?).read_line(&mut said)?;
    ensure!(said == "ready\n", "small-ceph did not get ready");
    Ok(cluster)
}

fn adapter(dir: &Path, scratch: &str) -> Result<Rbd> {
    let import = ImportConfig { import_dir: dir.join("import"), ..ImportConfig::default() };
    let pools = Arc::new(Pools::new(TIMEOUT));
    let uploads = Arc::new(Files { folder: dir.join("import"), pool: pool(&dir.join("ceph/ceph.conf"), "ucloud") });
    Ok(Rbd::new(pools, Arc::new(Importer::new(import)?.with_uploads(uploads)), dir.join(scratch))?)
}

fn pool(conf: &Path, user: &str) -> Pool {
    let backend = RbdPool { pool: "vms".into(), user: user.into(), conf: conf.to_owned() };
    Pool { name: "shared".into(), backend: PoolBackend::Rbd(backend) }
}

/// What is in the import folder, as Files of this host, and the Files disk-N, which have the UIDs file-N, in the pool.
struct Files {
    folder: PathBuf,
    pool: Pool,
}

#[async_trait]
impl OpenUpload for Files {
    async fn open(&self, _: &str, _: &str) -> Result<Uploaded, HostError> {
        Err(HostError::retryable("Fetched", "it is here, and need not be fetched"))
    }

    async fn kept(&self, namespace: &str, name: &str) -> Result<Option<Kept>, HostError> {
        let Some(number) = name.strip_prefix("disk-") else {
            return Ok(fs::File::open(self.folder.join(namespace).join(name)).ok().map(Kept::Here));
        };
        Ok(Some(Kept::InPool(FileRequest {
            uid: format!("file-{number}"),
            namespace: namespace.into(),
            name: name.into(),
            pool: self.pool.clone(),
            size: FILE_SIZE,
            sha256: None,
        })))
    }
}

/// The Files of an agent that has just started.
pub fn uploads() -> Uploads {
    Uploads::new(Arc::new(Pools::new(TIMEOUT)))
}

/// What a command says.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("cannot run {program}"))?;
    ensure!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

pub fn content(sha256: &Sha256) -> String {
    format!("ucloud.content.{}", sha256.hex())
}
