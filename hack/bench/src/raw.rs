//! etcd alone: as many transactions as it makes when nobody stands between. Each compares a key's revision and puts
//! 1.5 KiB, over TLS, all on one connection: what an API server must do at the least for a write.

use anyhow::Context as _;
use bytes::Bytes;
use etcd_client::{Client, Compare, CompareOp, DeleteOptions, KvClient, PutOptions, Txn, TxnOp};

use crate::kind::{self, OBJECT_BYTES};
use crate::load::{Limit, Timed, closed_loop};

const PREFIX: &str = "/bench/";

/// Creates keys from so many clients, whose names are numbered from `first` on.
pub async fn transactions(client: &Client, clients: usize, first: u64, limit: Limit) -> anyhow::Result<Timed> {
    let mut clients: Vec<KvClient> = (0..clients).map(|_| client.kv_client()).collect();
    let value = Bytes::from(vec![b'v'; OBJECT_BYTES]);
    closed_loop(&mut clients, limit, async |client, number| {
        let key = format!("{PREFIX}{}", kind::name(first + number));
        let txn = Txn::new().when([Compare::mod_revision(key.as_str(), CompareOp::Equal, 0)]).and_then([TxnOp::put(
            key.as_str(),
            value.as_ref(),
            None::<PutOptions>,
        )]);
        let answer = client.txn(txn).await.context("etcd has failed")?;
        anyhow::ensure!(answer.succeeded(), "etcd: the key {key} is there already");
        Ok(())
    })
    .await
}

/// Removes the keys.
pub async fn clear(client: &Client) -> anyhow::Result<()> {
    let all = DeleteOptions::new().with_prefix();
    client.kv_client().delete(PREFIX, Some(all)).await.context("cannot remove the keys from etcd")?;
    Ok(())
}
