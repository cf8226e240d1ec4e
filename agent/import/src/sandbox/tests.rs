use std::{fs, os::unix::fs::MetadataExt as _, os::unix::fs::PermissionsExt as _, process::Output};

use super::*;

const LIMITS: Limits = Limits { cpu: Duration::from_secs(30), file_size: 1 << 20 };

struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let lab = Self { dir: tempfile::tempdir().unwrap() };
        fs::write(lab.source(), "a source").unwrap();
        fs::write(lab.target(), "").unwrap();
        for path in [lab.source(), lab.target()] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        lab
    }

    fn source(&self) -> std::path::PathBuf {
        self.dir.path().join("source")
    }

    fn target(&self) -> std::path::PathBuf {
        self.dir.path().join("target")
    }

    /// What a script does in the sandbox.
    async fn run(&self, script: &str, limits: Limits) -> Output {
        let program = self.dir.path().join("program");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let user = stranger();
        let lent = vec![
            Lent::new(&self.source(), "/source", Access::Read, user).await.unwrap(),
            Lent::new(&self.target(), "/target", Access::Write, user).await.unwrap(),
        ];
        let output = command(&program, user, &lent, limits).unwrap().output().await.unwrap();
        assert_eq!(self.source().metadata().unwrap().uid(), user);
        Lent::take_back(lent).await;
        output
    }

    async fn says(&self, script: &str) -> String {
        let output = self.run(script, LIMITS).await;
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned()
    }
}

#[tokio::test]
async fn the_lent_files_are_all_that_it_has() {
    let lab = Lab::new();
    assert_eq!(lab.says("cat /source && cat /source > /target").await, "a source");
    assert_eq!(fs::read(lab.target()).unwrap(), b"a source");
    let own = lab.dir.path().metadata().unwrap();
    for path in [lab.source(), lab.target()] {
        let metadata = path.metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o777), (own.uid(), own.gid(), 0o600));
    }
    // Neither files of the host, nor the folder of those that are lent, nor the host's processes are there.
    let secret = lab.dir.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o666)).unwrap();
    for path in [secret.to_str().unwrap(), "/etc/shadow", "/etc/passwd", "/proc/1/environ", "/sys/class/net", "/root"] {
        let said = lab.says(&format!("cat {path}")).await;
        assert!(said.contains("No such file"), "{path}: {said}");
    }
    assert_eq!(
        lab.says("echo *; echo /dev/*").await.lines().next(),
        Some("bin dev lib lib64 program source target usr")
    );
    assert_eq!(lab.says("env | grep -v ^PWD").await, "LC_ALL=C");
}

#[tokio::test]
async fn nothing_but_the_target_can_be_written() {
    let lab = Lab::new();
    for path in ["/source", "/new", "/dev/new", "/dev/shm/new", "/usr/bin/sh", "/usr/new", "/program"] {
        let said = lab.says(&format!("echo x > {path}")).await;
        assert!(said.contains("cannot create"), "{path}: {said}");
    }
    assert_eq!(fs::read(lab.source()).unwrap(), b"a source");
    for command in
        ["rm /target", "mv /target /new", "chmod 777 /target", "ln /target /new", "mkdir /new", "chown 0 /target"]
    {
        let output = lab.run(command, LIMITS).await;
        assert!(!output.status.success(), "{command}");
    }
    assert_eq!(lab.target().metadata().unwrap().mode() & 0o7777, 0o600);
}

#[tokio::test]
async fn it_is_nobody_and_stays_so() {
    let lab = Lab::new();
    let id = lab.says("id -u; id -G").await;
    let (user, groups) = id.split_once('\n').unwrap();
    assert!(user.parse::<u32>().unwrap() >= 0x7000_0000 && groups == user, "{id}");
    let rights = "--dump | grep -E 'no_new_privs|bounding|Ambient|Effective'";
    let said = lab.says(&format!("setpriv {rights}")).await;
    assert!(said.contains("no_new_privs: 1") && said.contains("bounding set: [none]"), "{said}");
    for command in ["setpriv --reuid=0 true", "su -c true", "mount -t tmpfs none /dev/shm", "chroot / true"] {
        assert!(!lab.run(command, LIMITS).await.status.success(), "{command}");
    }
}

#[tokio::test]
async fn it_has_no_network_and_no_new_namespaces() {
    let lab = Lab::new();
    for (script, call) in [
        ("socket(my $s, 2, 1, 0) or die $!", "socket"),
        ("socket(my $s, 1, 1, 0) or die $!", "a local socket"),
        ("syscall(272, 0x10000000) == 0 or die $!", "unshare"),
        ("syscall(56, 0x10000011, 0, 0, 0, 0) >= 0 or die $!", "clone with a new user namespace"),
        ("syscall(435, 0, 0) >= 0 or die $!", "clone3"),
        ("syscall(101, 0, 1, 0, 0) == 0 or die $!", "ptrace"),
        ("syscall(425, 8, 0) >= 0 or die $!", "io_uring_setup"),
        ("syscall(321, 0, 0, 0) >= 0 or die $!", "bpf"),
        ("syscall(304, 0, 0, 0) >= 0 or die $!", "open_by_handle_at"),
    ] {
        let said = lab.says(&format!("exec perl -e '{script}'")).await;
        assert!(said.contains("Function not implemented"), "{call}: {said:?}");
    }
}

#[tokio::test]
async fn it_runs_within_limits() {
    let lab = Lab::new();
    let said = lab.says("ulimit -v; ulimit -t; ulimit -f; ulimit -c; ulimit -n; ulimit -p").await;
    assert_eq!(said, "2097152\n30\n2048\n0\n256\n256");
    let said = lab.says("perl -e 'fork // die \"enough: $!\" for 1..9; sleep 5'").await;
    assert!(said.contains("enough: Resource temporarily unavailable"), "{said}");
    let large = lab.run("exec dd if=/dev/zero of=/target bs=1M count=2 2>/dev/null", LIMITS).await;
    assert_eq!((large.status.code(), lab.target().metadata().unwrap().len()), (Some(128 + 25), 1 << 20));
    let busy = lab.run("while :; do :; done", Limits { cpu: Duration::from_secs(1), ..LIMITS }).await;
    assert!(matches!(busy.status.code(), Some(137 | 152)), "{busy:?}");
}

#[tokio::test]
async fn what_it_leaves_behind_dies_with_it() {
    let lab = Lab::new();
    let mark = format!("{}.5", 86_400 + u32::from(rand::random::<u16>()));
    lab.run(&format!("sleep {mark} >/dev/null 2>&1 & exit 0"), LIMITS).await;
    let is_it = |process: &fs::DirEntry| {
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains(&mark)
    };
    // It was killed, which takes a moment
    let there = || fs::read_dir("/proc").unwrap().flatten().find(is_it);
    for _ in 0..500 {
        if there().is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?} is still there", there());
}

#[tokio::test]
async fn dropped_at_any_moment_it_leaves_nothing() {
    let program = Path::new("/usr/bin/sleep");
    let mut groups = Vec::new();
    for step in 0..100 {
        let mut running = Running::start(command(program, stranger(), &[], LIMITS).unwrap().arg("1000000")).unwrap();
        groups.push(Pid::from_raw(running.0.id().unwrap().try_into().unwrap()));
        tokio::time::sleep(Duration::from_micros(100 * step)).await;
        if step % 2 == 0 {
            assert!(!running.kill().await.unwrap().success());
        }
    }
    // A signal to a group is refused when nobody is in it
    for group in groups {
        while killpg(group, None).is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn only_regular_files_are_lent() {
    let lab = Lab::new();
    let link = lab.dir.path().join("link");
    std::os::unix::fs::symlink("source", &link).unwrap();
    for path in [link.as_path(), lab.dir.path(), Path::new("/dev/null")] {
        assert!(Lent::new(path, "/source", Access::Read, stranger()).await.is_err(), "{path:?}");
    }
}

#[tokio::test]
async fn without_what_it_needs_nothing_runs() {
    let lab = Lab::new();
    assert!(command(Path::new("/nonexistent"), stranger(), &[], LIMITS).is_err());
    // A kernel or a container that forbids new namespaces looks like this.
    let program = Path::new("/usr/bin/true");
    let mut command = command(program, stranger(), &[], LIMITS).unwrap();
    let inner = command.as_std_mut();
    let arguments: Vec<_> = inner.get_args().map(ToOwned::to_owned).collect();
    let output = std::process::Command::new("setpriv")
        .args(["--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "bwrap"])
        .args(arguments)
        .stdin(filter().unwrap())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && complaint(&said).is_some(), "{said}");
    drop(lab);
}
