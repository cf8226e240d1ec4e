//! A write that depends on more than its own object: on its namespace, and on the namespace's quotas, which it changes with
//! it. Tried again while those are written by others.

use bytes::Bytes;

use super::quota::{self, Change};
use super::store::Freshness;
use super::write::{ATTEMPTS, Write};
use super::{failure, namespaces};
use crate::status::ApiError;
use crate::storage::{Guard, Revision, StorageError};

/// Why a write was not carried out.
pub(super) enum Rejection {
    /// The server does not allow it.
    Refused(ApiError),
    /// The store did not do it.
    Storage(StorageError),
}

impl From<ApiError> for Rejection {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

/// What is to be done to the object.
#[derive(Clone, Copy)]
pub(super) enum Operation<'o> {
    /// It is new.
    Create(&'o Bytes),
    /// It is overwritten, if its last write was at this revision.
    Update(&'o Bytes, Revision),
    /// It goes, if its last write was at this revision.
    Delete(Revision),
}

/// What a write depends on besides its own object.
pub(super) struct Conditions {
    /// The namespace, and the definition of the kind, as the write knows them.
    pub(super) surroundings: Vec<Guard>,
    /// They must be there and stay, for the object is new.
    pub(super) creates: bool,
    /// The namespace is written too: see [`namespaces::touch`].
    pub(super) touches: bool,
}

impl Write<'_> {
    /// Carries out `operation` with the guards that it needs: the namespace, and the quotas that `change` concerns.
    pub(super) async fn charged(
        &self,
        name: &str,
        operation: Operation<'_>,
        change: &Change,
        mut conditions: Conditions,
    ) -> Result<Revision, Rejection> {
        let namespace = self.attributes.namespace;
        let (mut fresh, mut attempts) = (false, ATTEMPTS);
        loop {
            // only where there are quotas: all others write at once
            let charges = !change.is_none() && quota::exist(self.store, namespace);
            let mut turn = if charges {
                let turn = self.store.turns.take(self.store, namespace).await;
                Some(turn.map_err(|stale| failure::of_stale_read(&stale))?)
            } else {
                None
            };
            let quotas = match quota::charge(self.store, self.resource, namespace, name, change) {
                // somebody else may have given back what is missing
                Err(_) if !fresh => {
                    drop(turn);
                    self.store.reach(Freshness::Consistent).await?;
                    fresh = true;
                    continue;
                }
                judged => judged?,
            };
            let mut guards = conditions.surroundings.clone();
            if conditions.touches {
                // a quota has no surroundings but its namespace
                for guard in &mut guards {
                    *guard = namespaces::touch(self.store, guard.clone())?;
                }
            }
            guards.extend(quotas);
            match self.send(name, operation, &guards).await {
                Ok(revision) => {
                    if let Some(turn) = &mut turn {
                        turn.wrote(revision);
                    }
                    return Ok(revision);
                }
                // a namespace that was only labelled is good still, and so may a quota be
                Err(StorageError::GuardChanged { .. }) if attempts > 1 => {
                    drop(turn);
                    (fresh, attempts) = (true, attempts - 1);
                    if conditions.creates {
                        conditions.surroundings = self.require_surroundings(true).await?;
                    } else {
                        self.store.reach(Freshness::Consistent).await?;
                        let depends = !conditions.surroundings.is_empty();
                        let known = depends.then(|| namespaces::known(self.store, namespace)).flatten();
                        conditions.surroundings = known.into_iter().collect();
                    }
                }
                Err(error) => return Err(Rejection::Storage(error)),
            }
        }
    }

    async fn send(&self, name: &str, operation: Operation<'_>, guards: &[Guard]) -> Result<Revision, StorageError> {
        let (storage, ttl) = (&self.store.storage, self.resource.ttl);
        let key = self.resource.key(self.attributes.namespace, name);
        match operation {
            Operation::Create(value) => storage.create(&key, value.clone(), ttl, guards).await,
            Operation::Update(value, expected) => storage.update(&key, value.clone(), expected, ttl, guards).await,
            Operation::Delete(expected) => storage.delete(&key, expected, guards).await,
        }
    }
}
