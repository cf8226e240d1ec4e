//! What a server logs in a test. One subscriber serves the whole program and writes to the log of the thread it is called on,
//! since subscribers that come and go with tests can lose each other's lines.

use std::cell::RefCell;
use std::io;
use std::sync::Once;

use tracing_subscriber::fmt::MakeWriter;

thread_local! {
    static LOG: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// The log of this test's thread, on which its server runs too.
pub struct Log(());

struct ThreadLog;

impl io::Write for ThreadLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.with_borrow_mut(|log| log.as_mut().map(|log| log.extend_from_slice(bytes)));
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for ThreadLog {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        Self
    }
}

impl Log {
    pub fn begin() -> Self {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(|| {
            let level = tracing_subscriber::filter::LevelFilter::DEBUG;
            tracing_subscriber::fmt().json().with_max_level(level).with_writer(ThreadLog).init();
        });
        LOG.set(Some(Vec::new()));
        Self(())
    }

    pub fn text(&self) -> String {
        let Self(()) = self;
        LOG.with_borrow(|log| String::from_utf8(log.clone().unwrap_or_default()).unwrap())
    }
}
