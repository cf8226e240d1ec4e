//! One connection to libvirt, with its events. All of this crate's `unsafe` is here and in `calls`: crate virt wraps
//! neither domain events nor the notice that a connection was closed.

use std::{
    ffi::{c_char, c_int, c_void},
    mem, ptr,
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

use tokio::sync::{Notify, watch};
use virt::{connect::Connect, error::Error, event, sys};

/// Seconds between two signs of life that a silent libvirtd is asked for, and how many may go unanswered
/// before the connection counts as lost.
const KEEPALIVE: (i32, u32) = (5, 3);
/// The pause after the event loop has failed, so that a lasting failure does not take a whole processor.
const EVENT_LOOP_PAUSE: Duration = Duration::from_secs(1);

/// What a session tells the world.
pub struct Signals {
    /// Its value grows with every event of a domain.
    pub changes: watch::Sender<u64>,
    /// Notified once the connection is lost.
    pub closed: Notify,
}

/// An open connection. Every method may block.
pub struct Session {
    connect: Connect,
    /// What is registered for events of domains.
    watched: Vec<c_int>,
    watches_close: bool,
}

impl Session {
    /// Connects to `uri` and begins to send `signals`. Blocks until libvirtd answers.
    pub fn open(uri: &str, signals: &Arc<Signals>) -> Result<Self, Error> {
        ensure_event_loop()?;
        let connect = Connect::open(Some(uri))?;
        // From here on, dropping the session closes the connection.
        let mut session = Self { connect, watched: Vec::new(), watches_close: false };
        session.connect.set_keep_alive(KEEPALIVE.0, KEEPALIVE.1)?;
        session.watch_close(Arc::clone(signals))?;
        session.watch_domains(signals)?;
        Ok(session)
    }

    /// The connection.
    pub const fn connect(&self) -> &Connect {
        &self.connect
    }

    /// Whether the connection still stands, as far as this end knows.
    pub fn is_alive(&self) -> bool {
        self.connect.is_alive().unwrap_or(false)
    }

    fn watch_close(&mut self, signals: Arc<Signals>) -> Result<(), Error> {
        let opaque = Arc::into_raw(signals).cast_mut().cast::<c_void>();
        // SAFETY: the connection is open; `opaque` is a reference count of ours that `release` gives back, which
        // libvirt calls once, when the callback is unregistered or the connection freed.
        let registered =
            unsafe { sys::virConnectRegisterCloseCallback(self.connect.as_ptr(), Some(closed), opaque, Some(release)) };
        if registered == -1 {
            let error = Error::last_error();
            // SAFETY: nothing was registered, so libvirt does not hold `opaque` and will not release it.
            unsafe { release(opaque) };
            return Err(error);
        }
        self.watches_close = true;
        Ok(())
    }

    fn watch_domains(&mut self, signals: &Arc<Signals>) -> Result<(), Error> {
        // SAFETY: VIR_DOMAIN_EVENT_CALLBACK: libvirt calls the pointer with the signature that belongs to the event
        // (`changed` for lifecycle events, `released` for removed devices); the generic type only stands for all.
        let (changed, released) = unsafe {
            (
                mem::transmute::<LifecycleCallback, AnyCallback>(changed),
                mem::transmute::<DeviceRemovedCallback, AnyCallback>(released),
            )
        };
        self.watch(sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, changed, signals)?;
        self.watch(sys::VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, released, signals)
    }

    fn watch(
        &mut self,
        event: sys::virDomainEventID,
        callback: AnyCallback,
        signals: &Arc<Signals>,
    ) -> Result<(), Error> {
        let opaque = Arc::into_raw(Arc::clone(signals)).cast_mut().cast::<c_void>();
        // SAFETY: as in `watch_close`; the null domain stands for all domains.
        let id = unsafe {
            sys::virConnectDomainEventRegisterAny(
                self.connect.as_ptr(),
                ptr::null_mut(),
                event.cast_signed(),
                Some(callback),
                opaque,
                Some(release),
            )
        };
        if id == -1 {
            let error = Error::last_error();
            // SAFETY: nothing was registered, so libvirt does not hold `opaque` and will not release it.
            unsafe { release(opaque) };
            return Err(error);
        }
        self.watched.push(id);
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Registered callbacks hold references to the connection: with them it would never be closed. Failures
        // are those of a connection that is lost already.
        let connect = self.connect.as_ptr();
        for id in self.watched.drain(..) {
            // SAFETY: the connection is not closed yet, and the id is one that it has given.
            unsafe { sys::virConnectDomainEventDeregisterAny(connect, id) };
        }
        if self.watches_close {
            // SAFETY: the connection is not closed yet, and `closed` is registered.
            unsafe { sys::virConnectUnregisterCloseCallback(connect, Some(closed)) };
        }
        if let Err(error) = self.connect.close() {
            tracing::debug!(error = %error.message(), "closing a connection to libvirt");
        }
    }
}

type AnyCallback = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void);
type DeviceRemovedCallback = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *const c_char, *mut c_void);
type LifecycleCallback =
    unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void) -> c_int;

unsafe extern "C" fn changed(
    _: sys::virConnectPtr,
    _: sys::virDomainPtr,
    _event: c_int,
    _detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    // SAFETY: `opaque` is the pointer of an Arc<Signals> whose count libvirt holds until it calls `release`.
    let signals = unsafe { &*opaque.cast::<Signals>() };
    signals.changes.send_modify(|value| *value = value.wrapping_add(1));
    0
}

unsafe extern "C" fn released(_: sys::virConnectPtr, _: sys::virDomainPtr, _alias: *const c_char, opaque: *mut c_void) {
    // SAFETY: as in `changed`.
    let signals = unsafe { &*opaque.cast::<Signals>() };
    signals.changes.send_modify(|value| *value = value.wrapping_add(1));
}

unsafe extern "C" fn closed(_: sys::virConnectPtr, _reason: c_int, opaque: *mut c_void) {
    // SAFETY: as in `changed`.
    let signals = unsafe { &*opaque.cast::<Signals>() };
    signals.closed.notify_one();
}

unsafe extern "C" fn release(opaque: *mut c_void) {
    // SAFETY: `opaque` came from Arc::into_raw at the registration, and is released once.
    drop(unsafe { Arc::from_raw(opaque.cast_const().cast::<Signals>()) });
}

/// Starts libvirt's event loop, unless it runs: it must be registered before the first connection is opened,
/// once for the process, and its thread lives as long as the process.
fn ensure_event_loop() -> Result<(), Error> {
    static EVENT_LOOP: OnceLock<Result<(), Error>> = OnceLock::new();
    EVENT_LOOP
        .get_or_init(|| {
            // Errors are returned; libvirt would print them as well.
            virt::error::clear_error_callback();
            event::event_register_default_impl()?;
            thread::spawn(run_event_loop);
            Ok(())
        })
        .clone()
}

fn run_event_loop() {
    loop {
        if let Err(error) = event::event_run_default_impl() {
            tracing::error!(error = %error.message(), "libvirt's event loop failed, going on");
            thread::sleep(EVENT_LOOP_PAUSE);
        }
    }
}
