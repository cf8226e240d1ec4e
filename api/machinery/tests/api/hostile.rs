//! Input that is meant to hurt: each ends in a quick 4xx, and the server goes on.

use std::time::{Duration, Instant};

use kube::api::PostParams;

use crate::support::{Harness, Slow, raw, request, widget};

const PATH: &str = "/apis/test.example.com/v1/namespaces/default/widgets";

#[tokio::test]
async fn bombs_are_refused_quickly() {
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    let level = |level: usize| {
        let list = vec![format!("*a{}", level - 1); 10].join(",");
        format!("a{level}: &a{level} [{list}]\n")
    };
    let aliases = format!("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n{}", (1..15).map(level).collect::<Vec<_>>().concat());
    let deep_yaml = (0..1000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect::<Vec<_>>().concat();
    let wide = |values: usize| {
        let parts = "1,".repeat(values);
        format!(r#"{{"metadata": {{"name": "a"}}, "spec": {{"color": "x", "parts": [{parts}1]}}}}"#)
    };
    let named = |name: String| format!(r#"{{"metadata": {{"name": "{name}"}}, "spec": {{"color": "x"}}}}"#);
    let field = "x".repeat(20_000);
    let pairs = vec![format!(r#""{field}": 1"#); 60].join(",");
    let twice = (0..80).fold(format!("{{{pairs}}}"), |inner, _| format!(r#"{{"{field}": {inner}}}"#));
    let finalizers = format!(
        r#"{{"metadata": {{"name": "a", "finalizers": [{}"z"]}}, "spec": {{"color": "x"}}}}"#,
        "\"bad one\",".repeat(10_000)
    );
    for (what, content_type, body, codes) in [
        ("an alias bomb", "application/yaml", aliases, vec![400]),
        ("deep JSON", "application/json", "{\"a\":".repeat(10_000), vec![400]),
        ("deep lists", "application/json", "[".repeat(10_000), vec![400]),
        ("deep YAML", "application/yaml", deep_yaml, vec![400]),
        ("4 MiB", "application/json", format!("\"{}\"", "x".repeat(4 << 20)), vec![413]),
        (
            "a large value",
            "application/json",
            format!(r#"{{"metadata": {{"name": "a"}}, "spec": {{"color": "{}"}}}}"#, "x".repeat(2 << 20)),
            vec![413],
        ),
        ("more values than an object can have", "application/json", wide(500_000), vec![400]),
        ("many wrong elements", "application/json", wide(90_000), vec![422]),
        ("a long name", "application/json", named("x".repeat(1 << 20)), vec![422]),
        ("a long field", "application/json", format!(r#"{{"{}": 1}}"#, "x".repeat(1 << 20)), vec![400]),
        ("long fields that are given twice", "application/json", twice, vec![400]),
        ("many bad finalizers", "application/json", finalizers, vec![422]),
        (
            "a huge number",
            "application/json",
            r#"{"metadata": {"name": "a"}, "spec": {"color": "x", "count": 1e400}}"#.to_owned(),
            vec![400],
        ),
        ("bad UTF-8 escapes", "application/json", r#"{"metadata": {"name": "\ud800"}}"#.to_owned(), vec![400]),
    ] {
        let started = Instant::now();
        let strict = format!("{PATH}?fieldValidation=Strict");
        let (code, _, answer) = raw(&client, request("POST", &strict, content_type, &body)).await;
        let shown: String = answer.chars().take(300).collect();
        assert!(codes.contains(&code), "{what}: {code} {shown}");
        assert!(answer.len() < 200_000, "{what}: an answer of {} bytes", answer.len());
        assert!(started.elapsed() < Duration::from_secs(5), "{what}: {:?}", started.elapsed());
    }
    harness.widgets().await.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
}

#[tokio::test]
async fn writes_for_which_there_is_no_room_are_sent_away() {
    let (slow, harness) = Slow::start().await;
    let client = harness.client("admin").await;
    // nearly as large as an object can be
    let large = |name: &str| {
        let color = "x".repeat(1_400_000);
        request(
            "POST",
            PATH,
            "application/json",
            &format!(r#"{{"metadata": {{"name": "{name}"}}, "spec": {{"color": "{color}"}}}}"#),
        )
    };
    let mut held = tokio::task::JoinSet::new();
    for name in ["a", "b", "c", "d", "e"] {
        let (client, request) = (client.clone(), large(name));
        held.spawn(async move { raw(&client, request).await.0 });
        slow.arrived.acquire().await.unwrap().forget();
    }
    let (code, headers, body) = raw(&client, large("f")).await;
    assert_eq!(code, 429, "{body}");
    assert_eq!(headers["retry-after"], "1");
    let small =
        tokio::spawn(async move { harness.widgets().await.create(&PostParams::default(), &widget("g", "red")).await });
    slow.arrived.acquire().await.unwrap().forget();
    slow.released.add_permits(7);
    assert_eq!(held.join_all().await, [201; 5]);
    small.await.unwrap().expect("what is small finds room");
}

#[tokio::test]
async fn a_patch_bomb_is_refused() {
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    harness.widgets().await.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
    let mut operations = Vec::new();
    for index in 0..60 {
        operations.push(format!(r#"{{"op": "copy", "from": "/metadata", "path": "/metadata/x{index}"}}"#));
    }
    let patch = format!("[{}]", operations.join(","));
    let path = format!("{PATH}/a");
    let (code, ..) = raw(&client, request("PATCH", &path, "application/json-patch+json", &patch)).await;
    assert_eq!(code, 413);
}

#[tokio::test]
async fn names_cannot_leave_their_place() {
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    for path in [
        format!("{PATH}/..%2f..%2f..%2fcore%2fnamespaces%2fdefault"),
        "/apis/test.example.com/v1/namespaces/..%2fother/widgets/a".to_owned(),
        format!("{PATH}/%00"),
    ] {
        let (code, _, body) = raw(&client, request("GET", &path, "application/json", "")).await;
        assert_eq!(code, 404, "{path}: {body}");
        let (code, ..) = raw(&client, request("DELETE", &path, "application/json", "")).await;
        assert_eq!(code, 404, "{path}");
    }
    for name in ["../x", "a/b", "", "A", &"a".repeat(300)] {
        let body = serde_json::json!({"metadata": {"name": name}, "spec": {"color": "x"}}).to_string();
        let (code, _, answer) = raw(&client, request("POST", PATH, "application/json", &body)).await;
        assert_eq!(code, 422, "{name}: {answer}");
    }
}
