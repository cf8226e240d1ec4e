//! The store in etcd.
//!
//! Each write is one transaction, with a compare of its key's revision and of its guards'. The parts: `members` reaches etcd (TLS, timeouts, which member to
//! ask), `failure` reads its errors, `outcome` finds out about writes whose answer was lost, `lease` shares leases
//! between keys with a time to live, `watcher` follows the changes.

mod failure;
mod lease;
mod members;
mod outcome;
#[cfg(test)]
mod tests;
mod watcher;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{Compare, CompareOp, GetOptions, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};

use self::{
    failure::Failure,
    lease::Leases,
    members::Members,
    outcome::{Attempt, Outcome},
};
use super::{Guard, Listing, PastListing, Revision, Storage, StorageError, StoredValue, WatchBatches, check_size};

/// Keys per request of a list.
const LIST_PAGE_KEYS: i64 = 500;

/// How often a list that a compaction overtook is begun again.
const LIST_ATTEMPTS: u32 = 3;

/// How to reach etcd. TLS with a client certificate is the only way.
#[derive(Clone)]
pub struct EtcdConfig {
    /// URLs of the members' client ports, such as `https://[fd00::1]:2379`.
    pub endpoints: Vec<String>,
    /// The CA that signed etcd's certificates, PEM.
    pub ca: Vec<u8>,
    /// The client certificate (chain), PEM.
    pub cert: Vec<u8>,
    /// The client certificate's private key, PEM.
    pub key: Vec<u8>,
    /// What stands before each key in etcd, normally empty. Keys outside it do no harm.
    pub prefix: String,
}

/// A [`Storage`] in etcd, 3.4 or newer.
pub struct EtcdStorage {
    members: Members,
    leases: Leases,
    prefix: String,
}

impl EtcdStorage {
    /// Prepares the connections; etcd need not be up yet.
    ///
    /// # Errors
    /// [`StorageError::Refused`] if an endpoint or a certificate cannot be used.
    pub async fn connect(config: EtcdConfig) -> Result<Self, StorageError> {
        let members = Members::connect(&config).await?;
        Ok(Self { members, leases: Leases::default(), prefix: config.prefix })
    }

    /// The key as it stands in etcd.
    fn etcd_key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// A value found in a list.
    fn listed(&self, value: KeyValue) -> Option<StoredValue> {
        let key = plain_key(&self.prefix, value.key())?;
        Some(stored(&key, value))
    }

    /// Sends a write once, and finds out what became of it.
    async fn write(
        &self,
        key: &str,
        attempt: Attempt<'_>,
        op: TxnOp,
        guards: &[Guard],
    ) -> Result<Outcome, StorageError> {
        match self.members.write(self.transaction(key, attempt, op, guards)).await {
            Ok(answer) => Ok(read_answer(key, guards, &answer)),
            Err(Failure::Definite(error)) => Err(error),
            Err(Failure::LeaseNotFound) => {
                self.leases.forget().await;
                Err(StorageError::unavailable("etcd has lost the lease that was meant for the key"))
            }
            Err(Failure::Unknown(cause)) => match self.outcome_of(key, attempt).await {
                Ok(Some(outcome)) => Ok(outcome),
                // the first cause says more than why looking again did not help
                Ok(None) | Err(_) => Err(StorageError::OutcomeUnknown { key: key.to_owned(), source: cause }),
            },
        }
    }

    /// `op` and what the guards become, if the key and all guards are as expected. Else reads them all, for a transaction
    /// does not tell which of its compares has failed.
    fn transaction(&self, key: &str, attempt: Attempt<'_>, op: TxnOp, guards: &[Guard]) -> Txn {
        let etcd_key = self.etcd_key(key);
        // what an existing key holds is needed to go on; of a key that should not be there, that it is there
        let (expected, look) = match attempt {
            Attempt::Put { expected: Revision(0), .. } => (Revision(0), Some(GetOptions::new().with_keys_only())),
            Attempt::Put { expected, .. } | Attempt::Delete { expected } => (expected, None),
        };
        let mut compares = vec![Compare::mod_revision(etcd_key.as_str(), CompareOp::Equal, i64_revision(expected))];
        let mut writes = vec![op];
        let mut looks = vec![TxnOp::get(etcd_key.as_str(), look)];
        for guard in guards {
            let etcd_key = self.etcd_key(&guard.key);
            compares.push(Compare::mod_revision(etcd_key.as_str(), CompareOp::Equal, i64_revision(guard.revision)));
            if let Some(value) = &guard.put {
                let options = PutOptions::new().with_ignore_lease();
                writes.push(TxnOp::put(etcd_key.as_str(), value.as_ref(), Some(options)));
            }
            looks.push(TxnOp::get(etcd_key.as_str(), Some(GetOptions::new().with_keys_only())));
        }
        Txn::new().when(compares).and_then(writes).or_else(looks)
    }

    /// All pages of a list, the later ones at the revision of the first.
    async fn list_once(&self, prefix: &str) -> Result<Listing, StorageError> {
        let (mut from, end) = (self.etcd_key(prefix).into_bytes(), range_end(&self.etcd_key(prefix)));
        let mut listing = Listing { revision: Revision(0), values: Vec::new() };
        loop {
            let options = GetOptions::new()
                .with_range(end.clone())
                .with_limit(LIST_PAGE_KEYS)
                .with_revision(i64_revision(listing.revision));
            let mut page = self.members.get(&from, &options).await?;
            if listing.revision == Revision(0) {
                listing.revision = header_revision(page.header());
            }
            let more = page.more();
            let values = page.take_kvs();
            if let Some(last) = values.last() {
                // the smallest key after the last one
                from = [last.key(), b"\0"].concat();
            }
            listing.values.extend(values.into_iter().filter_map(|value| self.listed(value)));
            if !more {
                return Ok(listing);
            }
        }
    }
}

fn read_answer(key: &str, guards: &[Guard], answer: &TxnResponse) -> Outcome {
    if answer.succeeded() {
        return Outcome::Applied(header_revision(answer.header()));
    }
    // in the order of the reads: the key, then the guards
    let mut found = answer.op_responses().into_iter().map(|op| match op {
        TxnOpResponse::Get(mut found) => found.take_kvs().pop(),
        _ => None,
    });
    let current = found.next().flatten().map(|value| stored(key, value));
    let changed = guards.iter().zip(found).find_map(|(guard, now)| {
        let revision = now.map_or(Revision(0), |now| revision(now.mod_revision()));
        (revision != guard.revision).then(|| guard.key.clone())
    });
    Outcome::Lost { current, changed }
}

#[async_trait]
impl Storage for EtcdStorage {
    async fn create(
        &self,
        key: &str,
        value: Bytes,
        ttl: Option<Duration>,
        guards: &[Guard],
    ) -> Result<Revision, StorageError> {
        check_size(key, &value, guards)?;
        let mut options = PutOptions::new();
        if let Some(ttl) = ttl {
            options = options.with_lease(self.leases.lease_for(&self.members, ttl).await?);
        }
        let put = TxnOp::put(self.etcd_key(key), value.as_ref(), Some(options));
        let attempt = Attempt::Put { value: &value, expected: Revision(0) };
        match self.write(key, attempt, put, guards).await? {
            Outcome::Applied(revision) => Ok(revision),
            Outcome::Lost { current: None, changed: Some(guard) } => Err(StorageError::GuardChanged { key: guard }),
            Outcome::Lost { .. } => Err(StorageError::AlreadyExists { key: key.to_owned() }),
        }
    }

    async fn update(
        &self,
        key: &str,
        value: Bytes,
        expected: Revision,
        ttl: Option<Duration>,
        guards: &[Guard],
    ) -> Result<Revision, StorageError> {
        check_size(key, &value, guards)?;
        let options = match ttl {
            Some(ttl) => PutOptions::new().with_lease(self.leases.lease_for(&self.members, ttl).await?),
            None => PutOptions::new().with_ignore_lease(),
        };
        let put = TxnOp::put(self.etcd_key(key), value.as_ref(), Some(options));
        swapped(key, expected, self.write(key, Attempt::Put { value: &value, expected }, put, guards).await?)
    }

    async fn delete(&self, key: &str, expected: Revision, guards: &[Guard]) -> Result<Revision, StorageError> {
        check_size(key, &[], guards)?;
        let delete = TxnOp::delete(self.etcd_key(key), None);
        swapped(key, expected, self.write(key, Attempt::Delete { expected }, delete, guards).await?)
    }

    async fn get(&self, key: &str) -> Result<Option<StoredValue>, StorageError> {
        let mut found = self.members.get(self.etcd_key(key).as_bytes(), &GetOptions::new()).await?;
        Ok(found.take_kvs().pop().map(|value| stored(key, value)))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StorageError> {
        let mut attempt = 1;
        loop {
            match self.list_once(prefix).await {
                // compacted between two pages
                Err(StorageError::Compacted { .. }) if attempt < LIST_ATTEMPTS => attempt += 1,
                other => return other,
            }
        }
    }

    async fn list_past(
        &self,
        prefix: &str,
        after: &str,
        revision: Revision,
        limit: usize,
    ) -> Result<PastListing, StorageError> {
        let end = range_end(&self.etcd_key(prefix));
        // the smallest key after that one
        let from = format!("{}\0", self.etcd_key(after.max(prefix))).into_bytes();
        let options = GetOptions::new()
            .with_range(end)
            .with_limit(i64::try_from(limit).unwrap_or(i64::MAX))
            .with_revision(i64_revision(revision));
        let mut page = self.members.get(&from, &options).await?;
        let (count, values) = (usize::try_from(page.count()).unwrap_or_default(), page.take_kvs());
        let rest = count.saturating_sub(values.len());
        Ok(PastListing { values: values.into_iter().filter_map(|value| self.listed(value)).collect(), rest })
    }

    async fn current_revision(&self) -> Result<Revision, StorageError> {
        self.members.current_revision().await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchBatches, StorageError> {
        watcher::watch(&self.members, self.prefix.clone(), prefix.to_owned(), after).await
    }
}

/// A key of etcd as the rest knows it; nothing if it is not of this cluster, or not text, which is reported.
fn plain_key(cluster: &str, key: &[u8]) -> Option<String> {
    let key = key.strip_prefix(cluster.as_bytes())?;
    let text = std::str::from_utf8(key);
    if text.is_err() {
        tracing::error!(key = %String::from_utf8_lossy(key), "a key in etcd is not text, it is left out");
    }
    text.ok().map(str::to_owned)
}

/// The outcome of a compare-and-swap as its caller gets it.
fn swapped(key: &str, expected: Revision, outcome: Outcome) -> Result<Revision, StorageError> {
    match outcome {
        Outcome::Applied(revision) => Ok(revision),
        Outcome::Lost { current: Some(current), changed: Some(guard) } if current.mod_revision == expected => {
            Err(StorageError::GuardChanged { key: guard })
        }
        Outcome::Lost { current: Some(current), .. } => {
            Err(StorageError::Conflict { key: key.to_owned(), expected, current })
        }
        Outcome::Lost { current: None, .. } => Err(StorageError::NotFound { key: key.to_owned() }),
    }
}

/// A value found under a key.
fn stored(key: &str, value: KeyValue) -> StoredValue {
    let mod_revision = revision(value.mod_revision());
    let (_, value) = value.into_key_value();
    StoredValue { key: key.to_owned(), value: value.into(), mod_revision }
}

/// The first key after all those that begin with `prefix`. Prefixes here are text, whose last byte is never 0xff.
fn range_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    match end.last_mut() {
        Some(last) => *last += 1,
        // etcd's word for "to the end"
        None => end.push(0),
    }
    end
}

/// etcd counts in i64, and never below 0.
fn revision(etcd: i64) -> Revision {
    Revision(u64::try_from(etcd).unwrap_or_default())
}

fn i64_revision(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

fn header_revision(header: Option<&etcd_client::ResponseHeader>) -> Revision {
    header.map_or(Revision(0), |header| revision(header.revision()))
}
