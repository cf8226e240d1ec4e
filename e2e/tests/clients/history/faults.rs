//! What happens to etcd and to the API server while they are used.

use std::{sync::atomic::Ordering, thread, time::Duration};

use nix::sys::signal::Signal;
use rand::{Rng as _, rngs::StdRng, seq::SliceRandom as _};
use ucloud_e2e::{ControlPlane, Program, eventually};

use super::clients::Record;

/// Between two faults so many writes are acknowledged: each fault meets a system that works.
const WRITES_BETWEEN: usize = 40;
/// They are within this time.
const RECOVERY: Duration = Duration::from_mins(1);

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// A program stands still for some milliseconds, and goes on as if nothing had been.
    Pause(Program, u64),
    /// A program is killed, and started again after some milliseconds.
    Kill(Program, u64),
    /// The API server is told to end, and started again.
    Restart,
    /// etcd forgets its history.
    Compact,
    /// etcd forgets its history while the API server is away.
    CompactUnseen,
}

const FAULTS: [Fault; 11] = [
    Fault::Pause(Program::Etcd, 300),
    Fault::Pause(Program::Etcd, 3000),
    Fault::Pause(Program::Etcd, 7000),
    Fault::Pause(Program::Api, 1000),
    Fault::Kill(Program::Etcd, 0),
    Fault::Kill(Program::Etcd, 2000),
    Fault::Kill(Program::Api, 0),
    Fault::Restart,
    Fault::Compact,
    Fault::Compact,
    Fault::CompactUnseen,
];

/// All faults, in an order that chance decides.
pub fn happen(plane: &mut ControlPlane, record: &Record, mut rng: StdRng) -> anyhow::Result<()> {
    let mut faults = FAULTS;
    faults.shuffle(&mut rng);
    work_goes_on(record)?;
    for fault in faults {
        println!("history: {fault:?}");
        cause(plane, fault, &mut rng)?;
        work_goes_on(record)?;
    }
    Ok(())
}

fn work_goes_on(record: &Record) -> anyhow::Result<()> {
    let goal = record.acknowledged.load(Ordering::SeqCst) + WRITES_BETWEEN;
    eventually("writes are acknowledged", RECOVERY, || {
        let now = record.acknowledged.load(Ordering::SeqCst);
        Ok(if now >= goal { Ok(()) } else { Err(format!("{now} of {goal}")) })
    })
}

fn cause(plane: &mut ControlPlane, fault: Fault, rng: &mut StdRng) -> anyhow::Result<()> {
    let mut lasts = |millis: u64| thread::sleep(Duration::from_millis(millis + rng.random_range(0..200)));
    match fault {
        Fault::Pause(program, millis) => {
            plane.signal(program, Signal::SIGSTOP)?;
            lasts(millis);
            plane.signal(program, Signal::SIGCONT)
        }
        Fault::Kill(program, millis) => {
            plane.kill(program)?;
            lasts(millis);
            plane.start_again(program)
        }
        Fault::Restart => {
            plane.terminate(Program::Api)?;
            plane.start_again(Program::Api)
        }
        Fault::Compact => plane.compact(),
        Fault::CompactUnseen => {
            plane.kill(Program::Api)?;
            plane.compact()?;
            plane.start_again(Program::Api)
        }
    }
}
