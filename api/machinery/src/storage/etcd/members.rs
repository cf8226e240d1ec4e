//! etcd's members: the connections to them, timeouts, and which member is asked.
//!
//! One member is asked until it fails, then the next: a balancer that spreads requests sends every other one to a dead
//! member, which fails the fastest. Watches have connections of their own, since old etcd versions starve a watch that
//! shares a TLS connection with large lists (etcd issue 15402).

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use etcd_client::{
    Certificate, Client, ConnectOptions, GetOptions, GetResponse, Identity, KvClient, LeaseClient, TlsOptions, Txn,
    TxnResponse, WatchClient,
};

use super::{
    EtcdConfig,
    failure::{Failure, classify},
    header_revision,
};
use crate::storage::{Revision, StorageError};

/// An answer that takes longer counts as lost.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// For TCP and TLS; short, so that another member can still be asked within a client's patience.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Pings on the connection. etcd cuts off clients that ping more often than every 5 s.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// Lists and watches may be as large as etcd makes them; gRPC's default of 4 MiB would be three large objects.
const MAX_MESSAGE_BYTES: usize = i32::MAX as usize;

/// Connections to all members.
pub(super) struct Members {
    members: Vec<Member>,
    /// Index of the member that is asked.
    current: AtomicUsize,
}

#[derive(Clone)]
struct Member {
    kv: KvClient,
    lease: LeaseClient,
    watch: WatchClient,
}

impl Members {
    /// Prepares a connection per member; they are made when they are first needed.
    pub(super) async fn connect(config: &EtcdConfig) -> Result<Self, StorageError> {
        let refused = |error: etcd_client::Error| StorageError::Refused(Box::new(error));
        if config.endpoints.is_empty() {
            return Err(StorageError::Refused("no etcd endpoint is configured".into()));
        }
        let mut members = Vec::with_capacity(config.endpoints.len());
        for endpoint in &config.endpoints {
            if !endpoint.starts_with("https://") {
                return Err(StorageError::Refused(
                    format!("etcd endpoint {endpoint}: must begin with https://").into(),
                ));
            }
            let requests = Client::connect([endpoint], Some(options(config))).await.map_err(refused)?;
            let watches =
                Client::connect([endpoint], Some(options(config).with_require_leader(true))).await.map_err(refused)?;
            members.push(Member {
                kv: requests.kv_client().max_decoding_message_size(MAX_MESSAGE_BYTES),
                lease: requests.lease_client(),
                watch: watches.watch_client().max_decoding_message_size(MAX_MESSAGE_BYTES),
            });
        }
        Ok(Self { members, current: AtomicUsize::new(0) })
    }

    /// Sends a transaction once. Another member is asked only if nothing can have reached the first.
    pub(super) async fn write(&self, txn: Txn) -> Result<TxnResponse, Failure> {
        let request = |mut member: Member| {
            let txn = txn.clone();
            async move { member.kv.txn(txn).await }
        };
        self.ask(Failure::never_arrived, Revision(0), request).await
    }

    /// Reads keys, from as many members as it takes.
    pub(super) async fn get(&self, key: &[u8], options: &GetOptions) -> Result<GetResponse, StorageError> {
        let request = |mut member: Member| {
            let (key, options) = (key.to_owned(), options.clone());
            async move { member.kv.get(key, Some(options)).await }
        };
        self.ask(may_ask_again, Revision(0), request).await.map_err(Failure::of_read)
    }

    /// A linearizable read that returns nothing but the revision.
    pub(super) async fn current_revision(&self) -> Result<Revision, StorageError> {
        let answer = self.get(b"\0", &GetOptions::new().with_count_only()).await?;
        Ok(header_revision(answer.header()))
    }

    /// A new lease of `ttl` seconds. A lease whose answer is lost runs out by itself.
    pub(super) async fn grant(&self, ttl: i64) -> Result<i64, StorageError> {
        let request = |mut member: Member| async move { member.lease.grant(ttl, None).await };
        let granted = self.ask(may_ask_again, Revision(0), request).await.map_err(Failure::of_read)?;
        Ok(granted.id())
    }

    /// Opens a watch.
    pub(super) async fn watch(
        &self,
        key: &[u8],
        options: &etcd_client::WatchOptions,
        asked: Revision,
    ) -> Result<etcd_client::WatchStream, StorageError> {
        let request = |mut member: Member| {
            let (key, options) = (key.to_owned(), options.clone());
            async move { member.watch.watch(key, Some(options)).await }
        };
        self.ask(may_ask_again, asked, request).await.map_err(Failure::of_read)
    }

    /// Asks the current member, and after a failure of which `again` approves, the next one. A lone member is asked
    /// twice, since the first use of a connection that broke meanwhile fails, but not if it just did not answer.
    async fn ask<T, F>(
        &self,
        again: fn(&Failure) -> bool,
        asked: Revision,
        request: impl Fn(Member) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut attempts = self.members.len().max(2);
        loop {
            let index = self.current.load(Ordering::Relaxed);
            let answer = tokio::time::timeout(REQUEST_TIMEOUT, request(self.members[index].clone())).await;
            let answer = if let Ok(answer) = answer {
                answer.map_err(|error| classify(error, asked))
            } else {
                attempts = attempts.min(self.members.len());
                Err(Failure::Unknown(format!("no answer from etcd within {} s", REQUEST_TIMEOUT.as_secs()).into()))
            };
            let failure = match answer {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            attempts = attempts.saturating_sub(1);
            if may_ask_again(&failure) {
                // whoever loses this race finds that another request has moved on already
                let next = (index + 1) % self.members.len();
                let _ = self.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
            }
            if attempts == 0 || !again(&failure) {
                return Err(failure);
            }
        }
    }
}

/// Whether another member may answer where this one did not.
fn may_ask_again(failure: &Failure) -> bool {
    failure.never_arrived() || matches!(failure, Failure::Unknown(_))
}

fn options(config: &EtcdConfig) -> ConnectOptions {
    let tls = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(&config.ca))
        .identity(Identity::from_pem(&config.cert, &config.key));
    ConnectOptions::new()
        .with_tls(tls)
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)
        .with_keep_alive_while_idle(true)
}
