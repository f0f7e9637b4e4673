//! What goes wrong outside: each gets its status, and the server loses nothing.

use crate::setup::{Setup, read};
use serde_json::json;
use std::io::{Read, Write};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use triax_serve::Limits;

#[test]
fn a_client_killed_in_its_stream_gives_its_memory_back() {
    let server = Setup { pause: Duration::from_micros(300), ..Setup::default() }.start();
    let body =
        json!({"prompt": "the cat sat on the mat", "max_tokens": 200, "stream": true, "temperature": 1})
            .to_string();
    let whole = json!({"prompt": "the cat", "max_tokens": 200}).to_string();
    for round in 0..1000 {
        let mut stream = server.connect();
        let body = if round % 5 == 4 { &whole } else { &body };
        let length = body.len();
        let head = format!(
            "POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        if round % 3 == 0 && round % 5 != 4 {
            // Some hear a little first.
            let mut heard = [0; 300];
            assert!(stream.read(&mut heard).unwrap() > 0);
        }
        drop(stream);
    }
    server.wait_for_idle();
    assert_eq!(server.metric("triax_texts_running"), 0.0);
    assert!(server.metric("triax_cancelled_total") > 0.0);
    server.complete(&json!({"prompt": "still here", "max_tokens": 3}));
}

#[test]
fn a_full_queue_refuses_with_a_time_to_come_back_and_the_others_go_on() {
    let limits = Limits { queue: 2, ..Limits::default() };
    let server = Setup { pause: Duration::from_millis(5), limits, sequences: 2, ..Setup::default() }.start();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let ask = || {
            let answer = server.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 40, "seed": 1}));
            if answer.status == 429 {
                assert!(answer.head.to_ascii_lowercase().contains("retry-after: 1"), "{answer:?}");
                assert_eq!(answer.json()["error"]["code"], "queue_full");
            }
            answer.status
        };
        let clients: Vec<_> = (0..12).map(|_| scope.spawn(ask)).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let count = |status| statuses.iter().filter(|&&s| s == status).count();
    assert!(count(200) >= 4 && count(429) >= 1 && count(200) + count(429) == 12, "{statuses:?}");
    // For more texts than that there will never be room: waiting does not help.
    assert_eq!(server.post("/v1/completions", &json!({"prompt": "a", "n": 5})).status, 400);
    server.wait_for_idle();
}

#[test]
fn bad_requests_get_the_status_that_says_what_is_wrong() {
    let limits = Limits { body: 2000, ..Limits::default() };
    let server = Setup { limits, ..Setup::default() }.start();
    let path = "/v1/completions";
    for (body, part) in [
        (&b"{\"prompt\": "[..], "not valid JSON"),
        (b"", "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"{\"prompt\": \"\xc3\x28\"}", "not valid JSON"),
        (b"[1, 2]", "must be a JSON object"),
        (b"{}", "`prompt` is missing"),
        (b"{\"prompt\": []}", "no tokens"),
        (b"{\"prompt\": [[1], []]}", "no tokens"),
        (b"{\"prompt\": [1, \"a\"]}", "must be a string"),
        (b"{\"prompt\": [-1]}", "must be a string"),
        (b"{\"prompt\": [70000]}", "beyond the network's vocabulary"),
        (b"{\"prompt\": \"a\", \"temprature\": 1}", "do you mean `temperature`"),
        (b"{\"prompt\": \"a\", \"best_of\": 2}", "`best_of` is not supported"),
        (b"{\"prompt\": \"a\", \"temperature\": -1}", "`temperature` must be from 0"),
        (b"{\"prompt\": \"a\", \"top_p\": 0}", "`top_p` must be above 0"),
        (b"{\"prompt\": \"a\", \"n\": 0}", "`n` must be 1"),
        (b"{\"prompt\": \"a\", \"stop\": \"\"}", "none of them empty"),
        (b"{\"prompt\": \"a\", \"logprobs\": 21}", "`logprobs` must be 0 to 20"),
        (b"{\"prompt\": \"a\", \"stream_options\": {}}", "needs `stream`"),
    ] {
        let answer = server.post_bytes(path, body);
        assert!(answer.status == 400 && answer.error().contains(part), "{part}: {answer:?}");
    }
    assert_eq!(server.post(path, &json!({"prompt": "a", "model": "other"})).status, 404);
    assert_eq!(server.post(path, &json!({"prompt": "x".repeat(3000)})).status, 413);
    assert_eq!(server.raw(&format!("POST {path} HTTP/1.1\r\nContent-Length: 2"), b"{}").status, 415);
    assert_eq!(server.get("/nowhere").status, 404);
    let answer = server.get(path);
    assert!(answer.status == 405 && answer.head.to_ascii_lowercase().contains("allow: post"), "{answer:?}");
    // A body of unknown length that grows beyond the limit.
    let head =
        format!("POST {path} HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked");
    let mut body = format!("bb8\r\n{}\r\n", "x".repeat(3000)).into_bytes();
    body.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(server.raw(&head, &body).status, 413);
    assert_eq!(server.raw("\u{1}garbage", b"").status, 400);
    server.complete(&json!({"prompt": "still here", "max_tokens": 3}));
}

#[test]
fn keys_are_asked_for_where_it_matters() {
    let server = Setup { keys: Some("right-key-1\nright-key-2\n"), ..Setup::default() }.start();
    let with =
        |path: &str, key: &str| server.raw(&format!("GET {path} HTTP/1.1\r\nAuthorization: {key}"), b"");
    for path in ["/v1/models", "/metrics", "/tokenizer_info", "/nowhere"] {
        for wrong in ["Bearer wrong-key", "Bearer ", "right-key-1", "Bearer right-key-", "Basic right-key-1"]
        {
            let answer = with(path, wrong);
            assert_eq!(answer.status, 401, "{path} {wrong}");
            assert!(!answer.body.contains("wrong-key"));
        }
        assert_eq!(server.get(path).status, 401);
    }
    assert_eq!(with("/v1/models", "Bearer right-key-2").status, 200);
    assert_eq!(with("/v1/models", "bearer right-key-1").status, 200);
    assert_eq!(with("/nowhere", "Bearer right-key-2").status, 404);
    for open in ["/", "/health", "/openapi.json"] {
        assert_eq!(server.get(open).status, 200, "{open}");
    }
    // Without a key no body is read.
    assert_eq!(server.post("/v1/completions", &json!({"prompt": "a"})).status, 401);
}

#[test]
fn slow_bodies_and_heads_are_given_up_on_and_hold_up_nobody() {
    let limits = Limits { arrival: Duration::from_millis(300), ..Limits::default() };
    let server = Setup { limits, ..Setup::default() }.start();
    let mut slow: Vec<_> = (0..50)
        .map(|index| {
            let mut stream = server.connect();
            let head = "POST /v1/completions HTTP/1.1\r\nHost: t\r\n";
            let rest = "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{";
            stream.write_all(head.as_bytes()).unwrap();
            if index % 2 == 0 {
                stream.write_all(rest.as_bytes()).unwrap();
            }
            (index, stream)
        })
        .collect();
    let begin = Instant::now();
    server.complete(&json!({"prompt": "a", "max_tokens": 3}));
    assert!(begin.elapsed() < Duration::from_millis(250), "held up by slow clients");
    for (index, stream) in &mut slow {
        if *index % 2 == 0 {
            // The connection may close before what it would still have to read has come.
            assert_eq!(read(stream).status, 408);
        } else {
            let mut heard = Vec::new();
            let _ = stream.read_to_end(&mut heard);
            assert!(heard.is_empty() || heard.starts_with(b"HTTP/1.1 408"), "{heard:?}");
        }
    }
}

#[test]
fn a_request_that_takes_too_long_is_ended() {
    let limits = Limits { request: Duration::from_millis(100), ..Limits::default() };
    let server = Setup { limits, pause: Duration::from_millis(20), ..Setup::default() }.start();
    let body = json!({"prompt": "a", "max_tokens": 200, "temperature": 0});
    assert_eq!(server.post("/v1/completions", &body).status, 504);
    let mut streamed = body;
    streamed["stream"] = json!(true);
    let answer = server.post("/v1/completions", &streamed);
    assert!(answer.status == 200 && answer.body.contains("timeout_error"), "{answer:?}");
    server.wait_for_idle();
}

#[test]
fn a_stop_lets_requests_under_way_end_and_refuses_others() {
    let server = Setup { pause: Duration::from_millis(5), ..Setup::default() }.start();
    std::thread::scope(|scope| {
        let under_way = scope.spawn(|| {
            server.post(
                "/v1/completions",
                &json!({"prompt": "a", "n": 4, "max_tokens": 100, "seed": 1, "stream": true}),
            )
        });
        while server.get("/health").json()["texts"] == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
        server.stop.store(true, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(120));
        let refused = server.post("/v1/completions", &json!({"prompt": "b"}));
        assert!(
            refused.status == 503 && refused.head.to_ascii_lowercase().contains("retry-after: "),
            "{refused:?}"
        );
        assert_eq!(server.get("/health").status, 503);
        let answer = under_way.join().unwrap();
        assert!(answer.events().len() > 1);
    });
}

#[test]
fn the_metrics_tell_what_happened() {
    let server = Setup::default().start();
    for _ in 0..2 {
        server.complete(&json!({"prompt": "the cat sat on the mat, and the dog sat on the log", "max_tokens": 5, "temperature": 0}));
    }
    let counted = server.metric("triax_new_tokens_total");
    assert!((1.0..=10.0).contains(&counted), "{counted}");
    assert!(server.metric("triax_prefix_hit_tokens_total") > 0.0);
    assert_eq!(server.metric("triax_time_to_first_token_seconds_count"), 2.0);
    assert!(server.metric("triax_kv_blocks") > 0.0);
}
