//! Whether KVM runs guests here: found out by running one. /dev/kvm can exist and open and still not run a
//! guest (on nested machines): QEMU then spins for ever, aborts on a processor feature, or stops at an instruction that
//! the hypervisor below cannot emulate, such as a boot loader's `iret` in protected mode.
//!
//! The guest is a boot sector that goes the way of every boot loader and kernel: from real mode to protected mode, where
//! it returns as from an interrupt, and by page tables to 64 bits. There it writes to QEMU's isa-debug-exit device,
//! whereupon QEMU ends with a certain exit code. It has the machine and the processor that VMs have, and comes to its boot
//! sector through the same BIOS: a guest that needs less would prove less. It is run as the user that libvirt runs QEMU as,
//! since that one must be able to use it.

use std::{
    io::{self, Write as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::unistd::User;
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
    time::timeout,
};

const KVM: &str = "/dev/kvm";
/// How long the guest may take on a host: one that runs at all ends within a fraction of a second.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// isa-debug-exit ends QEMU with (value << 1) | 1.
const VALUE: u8 = 0x10;
const EXIT_CODE: i32 = 33;
/// The BIOS boots from no disk that is much smaller.
const DISK_SIZE: u64 = 1 << 20;
/// The guest, at address 0x7c00. Its page tables are at 0x1000 to 0x3000, its stack ends at 0x7000.
#[rustfmt::skip]
const PROGRAM: [u8; 182] = [
    // 16 bits, real mode
    0xfa, // cli
    0x31, 0xc0, // xor ax, ax
    0x8e, 0xd8, // mov ds, ax
    0x66, 0x0f, 0x01, 0x16, 0xb0, 0x7c, // lgdt [gdtr]
    0x0f, 0x20, 0xc0, // mov eax, cr0
    0x0c, 0x01, // or al, 1 (PE)
    0x0f, 0x22, 0xc0, // mov cr0, eax
    0x66, 0xea, 0x1b, 0x7c, 0x00, 0x00, 0x08, 0x00, // jmp 0x08:protected
    // protected: 32 bits
    0x66, 0xb8, 0x10, 0x00, // mov ax, 0x10
    0x8e, 0xd8, // mov ds, ax
    0x8e, 0xc0, // mov es, ax
    0x8e, 0xd0, // mov ss, ax
    0xbc, 0x00, 0x70, 0x00, 0x00, // mov esp, 0x7000
    0x9c, // pushfd
    0x6a, 0x08, // push 0x08
    0x68, 0x33, 0x7c, 0x00, 0x00, // push returned
    0xcf, // iretd
    // returned: page tables that map the first 2 MiB to themselves
    0xbf, 0x00, 0x10, 0x00, 0x00, // mov edi, 0x1000
    0x0f, 0x22, 0xdf, // mov cr3, edi
    0x31, 0xc0, // xor eax, eax
    0xb9, 0x00, 0x0c, 0x00, 0x00, // mov ecx, 0xc00
    0xf3, 0xab, // rep stosd
    0xc7, 0x05, 0x00, 0x10, 0x00, 0x00, 0x03, 0x20, 0x00, 0x00, // mov dword [0x1000], 0x2003
    0xc7, 0x05, 0x00, 0x20, 0x00, 0x00, 0x03, 0x30, 0x00, 0x00, // mov dword [0x2000], 0x3003
    0xc7, 0x05, 0x00, 0x30, 0x00, 0x00, 0x83, 0x00, 0x00, 0x00, // mov dword [0x3000], 0x83
    0x0f, 0x20, 0xe0, // mov eax, cr4
    0x0c, 0x20, // or al, 0x20 (PAE)
    0x0f, 0x22, 0xe0, // mov cr4, eax
    0xb9, 0x80, 0x00, 0x00, 0xc0, // mov ecx, 0xc0000080 (EFER)
    0x0f, 0x32, // rdmsr
    0x80, 0xcc, 0x01, // or ah, 1 (LME)
    0x0f, 0x30, // wrmsr
    0x0f, 0x20, 0xc0, // mov eax, cr0
    0x0f, 0xba, 0xe8, 0x1f, // bts eax, 31 (PG)
    0x0f, 0x22, 0xc0, // mov cr0, eax
    0xea, 0x87, 0x7c, 0x00, 0x00, 0x18, 0x00, // jmp 0x18:long
    // long: 64 bits
    0xb0, VALUE, // mov al, VALUE
    0xe6, 0xf4, // out 0xf4, al
    0xf4, // hlt
    0x0f, 0x1f, 0x40, 0x00, // up to a multiple of 8
    // gdt: none, code of 32 bits (0x08), data (0x10), code of 64 bits (0x18)
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0xff, 0xff, 0x00, 0x00, 0x00, 0x9b, 0xcf, 0x00,
    0xff, 0xff, 0x00, 0x00, 0x00, 0x93, 0xcf, 0x00,
    0xff, 0xff, 0x00, 0x00, 0x00, 0x9b, 0xaf, 0x00,
    // gdtr: the table's size less one, and its address
    0x1f, 0x00, 0x90, 0x7c, 0x00, 0x00,
];
/// What QEMU says when KVM gives up on a guest, which it then stops without an end.
const GIVEN_UP: &str = "KVM internal error";
/// What makes a sector a boot sector, and where.
const SIGNATURE: [u8; 2] = [0x55, 0xaa];
const SIGNATURE_AT: usize = 510;

/// Runs the tiny guest.
#[derive(Clone, Debug)]
pub struct Probe {
    /// QEMU's program.
    pub qemu: PathBuf,
    /// The user that libvirt runs QEMU as.
    pub user: String,
    /// How long the guest may take.
    pub patience: Duration,
}

/// Why KVM does not run guests.
#[derive(Debug, thiserror::Error)]
pub enum NoKvm {
    /// There is nothing to try.
    #[error(
        "there is no {KVM}: the processor or the machine that this one runs in offers no virtualisation, or module kvm is not loaded"
    )]
    NoDevice,
    /// The device is there, and QEMU's user may not use it.
    #[error(
        "{KVM} belongs to {owner} with mode {mode:o}, so QEMU's user {user} may not use it (and libvirt looks at QEMU anew at every call); chown it to root:kvm and chmod it to 660"
    )]
    NotPermitted {
        /// Its user and group, by number.
        owner: String,
        /// Its mode.
        mode: u32,
        /// QEMU's user.
        user: String,
    },
    /// QEMU's user is unknown on this host.
    #[error("there is no user {0}, as which libvirt would run QEMU")]
    NoUser(String),
    /// The guest did not end.
    #[error("a tiny guest did not end within {} s: KVM is there and does not run guests, as on some nested machines", .0.as_secs())]
    Hangs(Duration),
    /// QEMU ended otherwise than the guest would have ended it.
    #[error("QEMU cannot use it: {0}")]
    Failed(String),
    /// The probe could not be run.
    #[error("the tiny guest cannot be run")]
    Unrunnable(#[from] io::Error),
}

impl Probe {
    /// Whether KVM runs guests; at most `patience` later. No process is left behind.
    pub async fn run(&self) -> Result<(), NoKvm> {
        let outcome = self.run_guest().await;
        match outcome {
            Err(NoKvm::Failed(said)) => Err(self.explain(said)),
            outcome => outcome,
        }
    }

    async fn run_guest(&self) -> Result<(), NoKvm> {
        let user = User::from_name(&self.user).map_err(io::Error::from)?;
        let user = user.ok_or_else(|| NoKvm::NoUser(self.user.clone()))?;
        let disk = write_disk()?;
        let drive = format!("file={},format=raw,if=none,id=boot,readonly=on", disk.path().display());
        let mut qemu = Command::new(&self.qemu)
            .args(["-accel", "kvm", "-cpu", "host", "-machine", "q35", "-m", "32", "-nodefaults", "-no-user-config"])
            .args(["-display", "none", "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
            .args(["-device", "virtio-blk-pci,drive=boot,bootindex=1", "-drive", &drive])
            .uid(user.uid.as_raw())
            .gid(user.gid.as_raw())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut said = qemu.stderr.take().map(|stderr| BufReader::new(stderr).split(b'\n'));
        let mut last = String::new();
        let ended = timeout(self.patience, async {
            while let Some(said) = &mut said
                && let Some(line) = said.next_segment().await?
            {
                last = String::from_utf8_lossy(&line).into_owned();
                if last.starts_with(GIVEN_UP) {
                    qemu.kill().await?;
                    break;
                }
            }
            qemu.wait().await
        })
        .await;
        match ended {
            Ok(status) if status.as_ref().is_ok_and(|status| status.code() == Some(EXIT_CODE)) => Ok(()),
            Ok(status) => {
                let status = status?;
                Err(NoKvm::Failed(if last.is_empty() { status.to_string() } else { crate::connection::brief(&last) }))
            }
            Err(_) => {
                // Killed and reaped: it would take a whole processor.
                qemu.kill().await?;
                Err(NoKvm::Hangs(self.patience))
            }
        }
    }

    /// The likely cause of QEMU's failure. It only words the answer: what decides is the guest.
    fn explain(&self, said: String) -> NoKvm {
        match Path::new(KVM).metadata() {
            Ok(device) if device.file_type().is_char_device() && said.contains("Permission denied") => {
                NoKvm::NotPermitted {
                    owner: format!("{}:{}", device.uid(), device.gid()),
                    mode: device.permissions().mode() & 0o7777,
                    user: self.user.clone(),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => NoKvm::NoDevice,
            _ => NoKvm::Failed(said),
        }
    }
}

/// The guest's disk, readable by QEMU's user.
fn write_disk() -> io::Result<NamedTempFile> {
    let mut sector = [0; SIGNATURE_AT + SIGNATURE.len()];
    sector[..PROGRAM.len()].copy_from_slice(&PROGRAM);
    sector[SIGNATURE_AT..].copy_from_slice(&SIGNATURE);
    let mut file = tempfile::Builder::new()
        .prefix("ucloud-kvm-probe-")
        .permissions(std::fs::Permissions::from_mode(0o644))
        .tempfile()?;
    file.write_all(&sector)?;
    file.as_file().set_len(DISK_SIZE)?;
    file.flush()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A QEMU that does what the script says.
    fn probe(script: &str) -> (Probe, tempfile::TempDir) {
        let dir = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir().unwrap();
        let qemu = dir.path().join("qemu");
        fs::write(&qemu, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&qemu, fs::Permissions::from_mode(0o755)).unwrap();
        (Probe { qemu, user: "nobody".into(), patience: Duration::from_mins(1) }, dir)
    }

    #[tokio::test]
    async fn the_guest_decides() {
        let (runs, _dir) = probe("exit 33");
        runs.run().await.unwrap();
        let (fails, _dir) = probe("echo first; echo 'no such thing' >&2; exit 1");
        assert_eq!(fails.run().await.unwrap_err().to_string(), "QEMU cannot use it: no such thing");
        let (ends, _dir) = probe("exit 0");
        assert!(matches!(ends.run().await, Err(NoKvm::Failed(_))));
    }

    #[tokio::test]
    async fn it_is_run_as_qemus_user_with_a_readable_disk() {
        let (probe, _dir) = probe(
            r#"while [ "$1" != -drive ]; do shift; done
            disk=${2#file=}; disk=${disk%%,*}
            [ "$(id -un)" = nobody ] && [ "$(wc -c <"$disk")" = 1048576 ] && exit 33"#,
        );
        probe.run().await.unwrap();
    }

    #[tokio::test]
    async fn a_guest_that_spins_is_ended() {
        let (mut probe, dir) = probe(r#"echo $$ > "${0%/*}/pid/pid"; while :; do :; done"#);
        probe.patience = Duration::from_secs(3);
        let pids = dir.path().join("pid");
        fs::create_dir(&pids).unwrap();
        fs::set_permissions(&pids, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(probe.run().await, Err(NoKvm::Hangs(_))));
        let pid = fs::read_to_string(pids.join("pid")).unwrap();
        assert!(!Path::new("/proc").join(pid.trim()).exists(), "the guest still runs, or was not reaped");
    }

    #[tokio::test]
    async fn a_guest_that_kvm_gives_up_on_is_ended() {
        let (gives_up, _dir) = probe("echo 'KVM internal error. Suberror: 1' >&2; echo more >&2; exec sleep 60");
        assert_eq!(
            gives_up.run().await.unwrap_err().to_string(),
            "QEMU cannot use it: KVM internal error. Suberror: 1"
        );
    }

    #[tokio::test]
    async fn the_real_guest_runs_under_the_translator() {
        // A QEMU that is given -accel tcg in place of kvm and its processor: proves the disk, from which KVM boots just so.
        let (probe, _dir) = probe(r#"shift 4; exec qemu-system-x86_64 -accel tcg "$@""#);
        probe.run().await.unwrap();
    }
}
