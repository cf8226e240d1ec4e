//! Request limits over the wire: one user's flood is their own problem.

use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use kube::api::PostParams;
use ucloud_machinery::RequestLimits;

use crate::support::{PATIENCE, Slow, Widget, eventually, raw, request, widget};

const PATH: &str = "/apis/test.example.com/v1/namespaces/default/widgets";
/// More than all that may be in work and wait.
const FLOOD: usize = 200;

#[tokio::test]
async fn a_flood_of_one_user_starves_nobody() {
    let limits = RequestLimits {
        concurrent: 8,
        concurrent_per_user: 6,
        queued: 80,
        queued_per_user: 60,
        patience: Duration::from_mins(5),
    };
    let (slow, harness) = Slow::start_configured(|builder| builder.request_limits(limits)).await;
    let (admin, viewer) = (harness.widgets().await, harness.client("viewer").await);
    let flood = tokio::spawn(async move {
        let flood: FuturesUnordered<_> = (0..FLOOD)
            .map(|number| {
                let widgets: kube::Api<Widget> = admin.clone();
                async move { widgets.create(&PostParams::default(), &widget(&format!("w{number}"), "red")).await }
            })
            .collect();
        flood.collect::<Vec<_>>().await
    });
    for _ in 0..limits.concurrent_per_user {
        tokio::time::timeout(PATIENCE, slow.arrived.acquire()).await.expect("the flood arrives").unwrap().forget();
    }
    // the flood is in work, waits, or was sent away; nothing of it can end
    for _ in 0..50 {
        assert_eq!(raw(&viewer, request("GET", PATH, "", "")).await.0, 200);
    }
    // so are the heartbeats of the very user who floods
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let admin = harness.client("admin").await;
    assert_eq!(raw(&admin, request("GET", leases, "", "")).await.0, 200);
    eventually("the queue is full", async || {
        let (_, _, metrics) = raw(&admin, request("GET", "/metrics", "", "")).await;
        let full = r#"apiserver_flowcontrol_current_inqueue_requests{priority_level="workload"} 60"#;
        metrics.contains(full)
            && metrics.contains(
                r#"apiserver_flowcontrol_rejected_requests_total{priority_level="workload",reason="queue-full"} 134"#,
            )
    })
    .await;
    assert_eq!(slow.arrived.available_permits(), 0, "no more than its share is in work");

    slow.released.add_permits(FLOOD);
    let answers = tokio::time::timeout(PATIENCE, flood).await.expect("the flood ends").unwrap();
    let codes = |code: u16| {
        let failed = answers.iter().filter_map(|answer| answer.as_ref().err());
        failed.filter(|error| matches!(error, kube::Error::Api(status) if status.code == code)).count()
    };
    let served = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!((served, codes(429)), (66, 134));
}
