//! A disk that qemu-img reads or writes through a socket, by the protocol NBD: as much of it as QEMU speaks with a server that has
//! nothing more to offer. That is the fixed newstyle handshake with `NBD_OPT_GO`, and simple replies to reads and writes
//! (<https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>).
//!
//! Whoever is at the other end may be in the power of a stranger's image. It gets at this one disk, as far as it was given it, and
//! at no more memory than a request takes. What is not in order ends the connection.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
};

/// The most that is read or written by one request, and what the client is asked to do: as much as it would by itself.
pub const MOST: u32 = 2 << 20;

const MAGIC: &[u8; 8] = b"NBDMAGIC";
const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// `NBD_FLAG_FIXED_NEWSTYLE` and `NBD_FLAG_NO_ZEROES`, which both sides have.
const HANDSHAKE: u8 = 0b11;
const OPTION_ABORT: u32 = 2;
const OPTION_GO: u32 = 7;
/// Options are short: a name, and what is asked for.
const MOST_OPTION: u32 = 4096;
const ACK: u32 = 1;
const INFO: u32 = 3;
const UNSUPPORTED: u32 = 1 << 31 | 1;
const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;
const HAS_FLAGS: u16 = 1;
const READ_ONLY: u16 = 1 << 1;
const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;

/// What is behind the socket.
pub trait Disk {
    /// Why it cannot be read or written.
    type Error;
    /// Whether it is there to be written; else it is read.
    const WRITTEN: bool;

    /// Its size in bytes, in whole sectors.
    fn size(&self) -> u64;

    /// Reads from `offset` on as much as `into` holds. It lies within the disk.
    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), Self::Error>;

    /// Writes these bytes from `offset` on. They lie within the disk.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Self::Error>;
}

/// Why serving a disk has ended.
#[derive(Debug)]
pub enum ServeError<E> {
    /// The disk has failed.
    Disk(E),
    /// What came by the connection is not in order.
    Connection(io::Error),
}

impl<E> From<io::Error> for ServeError<E> {
    fn from(error: io::Error) -> Self {
        Self::Connection(error)
    }
}

/// Serves the disk until the client has gone. The first failure of the disk ends it, too, and so the client's work. Blocks.
pub fn serve<D: Disk>(mut connection: &UnixStream, disk: &mut D) -> Result<(), ServeError<D::Error>> {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    match converse(&mut connection, disk) {
        // Whoever has gone had what it wanted, or is asked why not
        Err(ServeError::Connection(error)) if matches!(error.kind(), UnexpectedEof | BrokenPipe | ConnectionReset) => {
            Ok(())
        }
        ended => ended,
    }
}

fn converse<D: Disk>(connection: &mut (impl Read + Write), disk: &mut D) -> Result<(), ServeError<D::Error>> {
    if !shake_hands(connection, disk.size(), D::WRITTEN)? {
        return Ok(());
    }
    let expected = if D::WRITTEN { WRITE } else { READ };
    let mut buffer = Vec::new();
    loop {
        let Request { kind, cookie, offset, length } = Request::read(connection)?;
        if kind == DISCONNECT {
            return Ok(());
        }
        let within = offset.checked_add(length.into()).is_some_and(|end| end <= disk.size());
        if kind != expected || !within || length > MOST {
            return Err(wrong("a request is not in order").into());
        }
        let mut reply = [0; 16];
        reply[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        reply[8..].copy_from_slice(&cookie.to_be_bytes());
        buffer.resize(length as usize, 0);
        if D::WRITTEN {
            connection.read_exact(&mut buffer)?;
            disk.write(offset, &buffer).map_err(ServeError::Disk)?;
            connection.write_all(&reply)?;
        } else {
            disk.read(offset, &mut buffer).map_err(ServeError::Disk)?;
            connection.write_all(&reply)?;
            connection.write_all(&buffer)?;
        }
    }
}

/// Tells the size of the disk; whether the client wants it.
fn shake_hands(connection: &mut (impl Read + Write), size: u64, written: bool) -> io::Result<bool> {
    connection.write_all(MAGIC)?;
    connection.write_all(&OPTION_MAGIC.to_be_bytes())?;
    connection.write_all(&u16::from(HANDSHAKE).to_be_bytes())?;
    if u32::from_be_bytes(field(connection)?) != u32::from(HANDSHAKE) {
        return Err(wrong("the client speaks another version of the protocol"));
    }
    loop {
        if u64::from_be_bytes(field(connection)?) != OPTION_MAGIC {
            return Err(wrong("an option is not in order"));
        }
        let option = u32::from_be_bytes(field(connection)?);
        let length = u32::from_be_bytes(field(connection)?);
        if length > MOST_OPTION {
            return Err(wrong("an option is too long"));
        }
        // There is one disk, whatever name is asked for, and all there is to say of it is said
        connection.read_exact(&mut vec![0; length as usize])?;
        match option {
            OPTION_GO => {
                let flags = HAS_FLAGS | if written { 0 } else { READ_ONLY };
                let export = [&INFO_EXPORT.to_be_bytes()[..], &size.to_be_bytes(), &flags.to_be_bytes()].concat();
                answer(connection, option, INFO, &export)?;
                let (least, most) = (1_u32.to_be_bytes(), MOST.to_be_bytes());
                let blocks = [&INFO_BLOCK_SIZE.to_be_bytes()[..], &least, &most, &most].concat();
                answer(connection, option, INFO, &blocks)?;
                answer(connection, option, ACK, &[])?;
                return Ok(true);
            }
            OPTION_ABORT => {
                answer(connection, option, ACK, &[])?;
                return Ok(false);
            }
            _ => answer(connection, option, UNSUPPORTED, &[])?,
        }
    }
}

fn answer(connection: &mut impl Write, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
    let length = u32::try_from(data.len()).map_err(io::Error::other)?;
    let (magic, numbers) = (REPLY_MAGIC.to_be_bytes(), [option, kind, length].map(u32::to_be_bytes));
    connection.write_all(&[&magic[..], numbers.as_flattened(), data].concat())
}

fn field<const N: usize>(connection: &mut impl Read) -> io::Result<[u8; N]> {
    let mut field = [0; N];
    connection.read_exact(&mut field)?;
    Ok(field)
}

/// What the client wants.
struct Request {
    kind: u16,
    cookie: u64,
    offset: u64,
    length: u32,
}

impl Request {
    fn read(connection: &mut impl Read) -> io::Result<Self> {
        let mut bytes: &[u8] = &field::<28>(connection)?;
        if u32::from_be_bytes(field(&mut bytes)?) != REQUEST_MAGIC {
            return Err(wrong("a request is not in order"));
        }
        // What is asked for by flags was not offered
        let _flags: [u8; 2] = field(&mut bytes)?;
        Ok(Self {
            kind: u16::from_be_bytes(field(&mut bytes)?),
            cookie: u64::from_be_bytes(field(&mut bytes)?),
            offset: u64::from_be_bytes(field(&mut bytes)?),
            length: u32::from_be_bytes(field(&mut bytes)?),
        })
    }
}

fn wrong(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// A disk in memory that is written.
    struct Written(Vec<u8>);
    /// One that is read.
    struct Readable(Vec<u8>);

    fn part(bytes: &mut [u8], offset: u64, length: usize) -> &mut [u8] {
        let start = usize::try_from(offset).unwrap();
        &mut bytes[start..start + length]
    }

    impl Disk for Written {
        type Error = io::Error;
        const WRITTEN: bool = true;

        fn size(&self) -> u64 {
            self.0.len() as u64
        }

        fn read(&mut self, _: u64, _: &mut [u8]) -> io::Result<()> {
            panic!("it is written");
        }

        fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            if bytes.starts_with(b"full") {
                return Err(io::ErrorKind::StorageFull.into());
            }
            part(&mut self.0, offset, bytes.len()).copy_from_slice(bytes);
            Ok(())
        }
    }

    impl Disk for Readable {
        type Error = io::Error;
        const WRITTEN: bool = false;

        fn size(&self) -> u64 {
            self.0.len() as u64
        }

        fn read(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
            into.copy_from_slice(part(&mut self.0, offset, into.len()));
            Ok(())
        }

        fn write(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
            panic!("it is read");
        }
    }

    /// How serving ends when a client has sent all of this, and what it was answered.
    fn served<D: Disk<Error = io::Error> + Send>(disk: &mut D, sent: &[Vec<u8>]) -> (io::Result<()>, Vec<u8>) {
        let (mut client, server) = UnixStream::pair().unwrap();
        thread::scope(|scope| {
            let serving = scope.spawn(move || serve(&server, disk));
            // Who has been refused does not read the rest
            let _ = client.write_all(&sent.concat());
            client.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answered = Vec::new();
            let _ = client.read_to_end(&mut answered);
            let ended = serving.join().unwrap().map_err(|error| match error {
                ServeError::Disk(error) | ServeError::Connection(error) => error,
            });
            (ended, answered)
        })
    }

    fn hello() -> Vec<u8> {
        u32::from(HANDSHAKE).to_be_bytes().to_vec()
    }

    fn option(option: u32, data: &[u8]) -> Vec<u8> {
        let length = u32::try_from(data.len()).unwrap();
        [&OPTION_MAGIC.to_be_bytes()[..], &option.to_be_bytes(), &length.to_be_bytes(), data].concat()
    }

    fn go() -> Vec<u8> {
        option(OPTION_GO, &[0; 6])
    }

    fn request(kind: u16, offset: u64, length: u32) -> Vec<u8> {
        let (magic, numbers) = (REQUEST_MAGIC.to_be_bytes(), [offset, length.into()].map(u64::to_be_bytes));
        [&magic[..], &[0; 2], &kind.to_be_bytes(), b"a cookie", &numbers[0], &numbers[1][4..]].concat()
    }

    fn reply() -> Vec<u8> {
        [&SIMPLE_REPLY_MAGIC.to_be_bytes()[..], &[0; 4], b"a cookie"].concat()
    }

    #[test]
    fn a_disk_is_written_or_read_until_the_client_goes() {
        let mut disk = Written(vec![0; 1024]);
        let write = |offset, bytes: &[u8]| [request(WRITE, offset, 4), bytes.to_vec()].concat();
        let sent = [hello(), option(8, &[]), go(), write(1020, b"last"), write(0, b"firs")];
        for (more, ending) in [(vec![], "gone"), (request(DISCONNECT, 0, 0), "by its word"), (vec![1; 7], "midway")] {
            let (ended, answered) = served(&mut disk, &[&sent[..], &[more]].concat());
            ended.unwrap();
            assert!(answered.ends_with(&[reply(), reply()].concat()), "{ending}");
        }
        assert_eq!((&disk.0[..4], &disk.0[4..1020], &disk.0[1020..]), (&b"firs"[..], &[0; 1016][..], &b"last"[..]));

        let mut disk = Readable(b"0123456789".repeat(100));
        let (ended, answered) = served(&mut disk, &[hello(), go(), request(READ, 997, 3)]);
        ended.unwrap();
        assert!(answered.ends_with(&[reply(), b"789".to_vec()].concat()));
        let (ended, answered) = served(&mut disk, &[hello(), option(OPTION_ABORT, &[])]);
        ended.unwrap();
        assert!(answered.ends_with(&[OPTION_ABORT, ACK, 0].map(u32::to_be_bytes).concat()));
    }

    #[test]
    fn what_is_not_in_order_ends_it() {
        let mut disk = Written(vec![0; 1024]);
        for (sent, what) in [
            (vec![vec![0; 4]], "another handshake"),
            (vec![hello(), vec![0; 16]], "no option"),
            (vec![hello(), [&go()[..12], &u32::MAX.to_be_bytes()].concat()], "a long option"),
            (vec![hello(), go(), vec![0; 28]], "no request"),
            (vec![hello(), go(), request(READ, 0, 4)], "a read of what is written"),
            (vec![hello(), go(), request(9, 0, 4)], "another request"),
            (vec![hello(), go(), request(WRITE, 1021, 4), b"late".to_vec()], "behind the end"),
            (vec![hello(), go(), request(WRITE, u64::MAX, 4), b"late".to_vec()], "far behind the end"),
            (vec![hello(), go(), request(WRITE, 0, u32::MAX)], "more than there is"),
        ] {
            assert_eq!(served(&mut disk, &sent).0.unwrap_err().kind(), io::ErrorKind::InvalidData, "{what}");
        }
        let mut large = Written(vec![0; 8 << 20]);
        let sent = [hello(), go(), request(WRITE, 0, MOST + 1)];
        assert_eq!(served(&mut large, &sent).0.unwrap_err().kind(), io::ErrorKind::InvalidData, "more than is held");
        let sent = [hello(), go(), request(WRITE, 0, 4), b"full".to_vec(), request(WRITE, 4, 4), b"more".to_vec()];
        assert_eq!(served(&mut disk, &sent).0.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.0, [0; 1024], "nothing was written");
    }
}
