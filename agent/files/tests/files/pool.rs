//! A pool, an import folder and a web server of the test's own.

use std::{
    fs,
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use axum::{Router, extract::Request, response::Response};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch};
use ucloud_agent_core::{
    BlockStore as _, HostError,
    block_store::{Content, DiskId, DiskRequest, ImageRequest, Pool, PoolBackend, StoredImage},
};
use ucloud_agent_files::Files;
use ucloud_agent_import::{ImportConfig, Importer};
use ucloud_types::image::{FileSource, HttpSource, ImageFormat, ImageSource, Sha256};

pub const MIB: u64 = 1 << 20;

pub struct Lab {
    pub dir: TempDir,
    pub files: Files,
}

impl Lab {
    pub fn new() -> Result<Self> {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut ImportConfig)) -> Result<Self> {
        let dir = TempDir::with_prefix("ucloud-files-")?;
        fs::create_dir_all(dir.path().join("import/demo"))?;
        let mut config = ImportConfig {
            import_dir: dir.path().join("import"),
            allowed: vec!["127.0.0.1/32".parse()?],
            ..ImportConfig::default()
        };
        change(&mut config);
        Ok(Self { dir, files: Files::new(Arc::new(Importer::new(config)?)) })
    }

    /// The pool's directory.
    pub fn pool_dir(&self) -> PathBuf {
        self.dir.path().join("pool")
    }

    pub fn pool(&self) -> Pool {
        Pool { name: "default".into(), backend: PoolBackend::Directory { path: self.pool_dir() } }
    }

    /// A file of the import folder.
    pub fn source(&self, name: &str) -> PathBuf {
        self.dir.path().join("import/demo").join(name)
    }

    /// A raw disk of this many MiB in the import folder, whose first bytes are `mark`.
    pub fn raw(&self, name: &str, mebibytes: u64, mark: &[u8]) -> Result<PathBuf> {
        let path = self.source(name);
        fs::write(&path, mark)?;
        fs::File::options().write(true).open(&path)?.set_len(mebibytes * MIB)?;
        Ok(path)
    }

    /// A qcow2 file in the import folder that holds what a raw one does.
    pub fn qcow2(&self, name: &str, mebibytes: u64, mark: &[u8]) -> Result<PathBuf> {
        let raw = self.raw(&format!("{name}.raw"), mebibytes, mark)?;
        qemu_img(&["convert", "-f", "raw", "-O", "qcow2"], &[&raw, &self.source(name)])?;
        fs::remove_file(raw)?;
        Ok(self.source(name))
    }

    pub fn request(&self, uid: &str, source: ImageSource, format: ImageFormat) -> ImageRequest {
        ImageRequest {
            uid: uid.into(),
            namespace: "demo".into(),
            name: "image".into(),
            pool: self.pool(),
            source,
            format,
            compression: None,
            checksum: None,
        }
    }

    pub async fn import(&self, request: &ImageRequest) -> Result<StoredImage, HostError> {
        self.files.import_image(request, &watch::Sender::new(0)).await
    }

    pub async fn import_file(&self, uid: &str, name: &str, format: ImageFormat) -> Result<StoredImage, HostError> {
        self.import(&self.request(uid, file(name), format)).await
    }

    pub fn disk(&self, image_uid: &str, size: Option<&str>) -> Result<DiskRequest> {
        Ok(DiskRequest {
            id: DiskId { owner_uid: "vm-1".into(), name: "root".into() },
            pool: self.pool(),
            content: Content::Image(image_uid.into()),
            size: size.map(str::parse).transpose()?,
        })
    }

    /// All files of the pool, by their paths in it, but for its lock.
    pub fn contents(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let mut folders = vec![self.pool_dir()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                } else {
                    found.push(entry.path().strip_prefix(self.pool_dir())?.display().to_string());
                }
            }
        }
        found.retain(|path| path != "lock");
        found.sort();
        Ok(found)
    }
}

pub fn file(name: &str) -> ImageSource {
    ImageSource { file: Some(FileSource { name: name.into() }), ..ImageSource::default() }
}

pub fn http(url: &str) -> ImageSource {
    ImageSource { http: Some(HttpSource { url: url.into() }), ..ImageSource::default() }
}

pub fn sha256(path: &Path) -> Result<Sha256> {
    let output = Command::new("sha256sum").arg(path).output()?;
    let said = String::from_utf8(output.stdout)?;
    Ok(Sha256::try_from(format!("sha256:{}", said.split(' ').next().context("no checksum")?))?)
}

pub fn qemu_img(arguments: &[&str], paths: &[&Path]) -> Result<String> {
    let output = Command::new("qemu-img").args(arguments).args(paths).output()?;
    ensure!(output.status.success(), "qemu-img {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// A web server on the loopback, and how many requests it has had.
pub struct Server {
    pub address: SocketAddr,
    pub requests: Arc<AtomicUsize>,
}

impl Server {
    pub async fn start<F>(answer: impl Fn(String) -> F + Clone + Send + Sync + 'static) -> Result<Self>
    where
        F: Future<Output = Response> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        let router = Router::new().fallback(move |request: Request| {
            counted.fetch_add(1, Ordering::SeqCst);
            answer(request.uri().path().to_owned())
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { address, requests })
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// Waits until `done` says so.
pub async fn eventually(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let waited = tokio::time::timeout(Duration::from_secs(30), async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.with_context(|| format!("waited for half a minute until {what}"))
}

/// A small file system; unmounted when it is dropped.
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    pub fn mount(at: &Path, size: &str) -> Result<Self> {
        fs::create_dir_all(at)?;
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o"])
            .arg(format!("size={size}"))
            .arg("tmpfs")
            .arg(at)
            .status()?;
        ensure!(status.success(), "cannot mount a small file system; this test must be run as root");
        Ok(Self(at.to_owned()))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
