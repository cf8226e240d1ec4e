//! The key of a user of Ceph, found where Ceph itself looks for it.

use std::{fs, io, path::Path};

use base64::{Engine as _, prelude::BASE64_STANDARD};

use crate::{cluster::Cluster, error::RbdError};

/// The user's key, decoded.
pub fn read(user: &str, conf: &Path) -> Result<Vec<u8>, RbdError> {
    let client = Cluster::configured(user, conf)?;
    let given = client.option("key")?;
    if !given.is_empty() {
        return decode(&given).ok_or_else(|| RbdError::Key(conf.display().to_string()));
    }
    let keyrings = client.option("keyring")?;
    for path in keyrings.split(',').map(str::trim).filter(|path| !path.is_empty()) {
        let keyring = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            read => read.map_err(|error| RbdError::Keyring(path.to_owned(), error))?,
        };
        if let Some(key) = find(&keyring, user) {
            return decode(key).ok_or_else(|| RbdError::Key(path.to_owned()));
        }
    }
    Err(RbdError::NoKey(keyrings))
}

/// The key of the section `[client.USER]` of a keyring.
fn find<'a>(keyring: &'a str, user: &str) -> Option<&'a str> {
    let section = format!("[client.{user}]");
    let lines = keyring.lines().map(str::trim).skip_while(|line| *line != section).skip(1);
    let mut own = lines.take_while(|line| !line.starts_with('['));
    own.find_map(|line| line.split_once('=').filter(|(name, _)| name.trim() == "key").map(|(_, key)| key.trim()))
}

fn decode(key: &str) -> Option<Vec<u8>> {
    BASE64_STANDARD.decode(key.trim()).ok().filter(|key| !key.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_that_of_the_users_section() {
        let keyring = "[client.admin]\n\tkey = AAAA\n[client.ucloud]\n\tcaps mon = \"profile rbd\"\n\tkey = QUJD\n";
        assert_eq!(find(keyring, "ucloud").and_then(decode).unwrap(), b"ABC");
        assert_eq!(find(keyring, "admin"), Some("AAAA"));
        assert_eq!(find(keyring, "nobody"), None);
        assert_eq!(find("[client.ucloud]\n[client.admin]\nkey = AAAA\n", "ucloud"), None, "another's is not taken");
        assert_eq!(decode("no base64"), None);
    }
}
