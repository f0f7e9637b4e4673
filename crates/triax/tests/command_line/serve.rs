//! The server as a script starts, asks and stops it.

use super::road::trained;
use super::{errors, lines, run, succeed, triax};
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn post(port: u64, path: &str, key: &str, body: &Value) -> (u16, Value) {
    let mut stream = TcpStream::connect(("127.0.0.1", port as u16)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
}

/// A server on a free port, and what its ready file says.
fn started(folder: &Path, ready: &str, more: &[&str]) -> (Child, Value) {
    let mut server = triax(folder)
        .args(["serve", "--model", "runs/run", "--port", "0", "--ready-file", ready, "--keys-file", "keys"])
        .args(more)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    loop {
        if let Ok(text) = fs::read_to_string(folder.join(ready)) {
            return (server, serde_json::from_str(&text).unwrap());
        }
        if begin.elapsed() > Duration::from_secs(30) || server.try_wait().unwrap().is_some() {
            let _ = server.kill();
            panic!("no ready file: {}", said(server));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What an ended server wrote on standard error.
fn said(mut server: Child) -> String {
    server.wait().unwrap();
    let mut said = String::new();
    server.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    said
}

fn stop(server: &mut Child) {
    let kill = Command::new("kill").args(["-s", "TERM", &server.id().to_string()]).status().unwrap();
    assert!(kill.success());
    assert!(server.wait().unwrap().success());
}

#[test]
fn a_server_is_ready_when_its_file_is_there_answers_as_generate_does_and_stops_when_told() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    trained(folder);
    fs::write(folder.join("keys"), "key-of-a-test\n").unwrap();
    let (mut server, ready) = started(folder, "ready", &[]);
    let port = ready["port"].as_u64().unwrap();
    assert_eq!(ready["url"], format!("http://127.0.0.1:{port}"));
    assert_eq!(post(port, "/v1/completions", "another-key", &json!({"prompt": "let "})).0, 401);

    let ask = json!({"prompt": "let value_", "max_tokens": 12, "temperature": 0, "logprobs": 0});
    let (status, answer) = post(port, "/v1/completions", "key-of-a-test", &ask);
    assert_eq!(status, 200, "{answer}");
    let arguments = [
        "generate",
        "runs/run",
        "--prompt",
        "let value_",
        "--temperature",
        "0",
        "--max-tokens",
        "12",
        "--json",
    ];
    let generated = lines(&succeed(folder, &arguments)).remove(0);
    assert_eq!(answer["choices"][0]["text"], generated["text"]);
    let told = |value: &Value| -> Vec<f32> {
        value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
    };
    assert_eq!(
        told(&answer["choices"][0]["logprobs"]["token_logprobs"]),
        told(&generated["log_probabilities"])
    );

    // Four ranks that share the network serve the same bits.
    let (mut ranks, ready) = started(folder, "ranks", &["--layout", "tp=2,pp=2", "--peer-timeout", "60"]);
    let (status, shared) = post(ready["port"].as_u64().unwrap(), "/v1/completions", "key-of-a-test", &ask);
    assert_eq!((status, &shared["choices"]), (200, &answer["choices"]));
    stop(&mut ranks);

    stop(&mut server);
    let said = said(server);
    assert!(said.contains(&format!("http://127.0.0.1:{port}")) && !said.contains("key-of-a-test"), "{said}");
}

#[test]
fn a_server_for_other_machines_without_keys_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = run(folder.path(), &["serve", "--model", "none", "--host", "0.0.0.0"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(errors(&refused).contains("--keys-file"), "{}", errors(&refused));
    fs::write(folder.path().join("keys"), "# none\n").unwrap();
    let refused = run(folder.path(), &["serve", "--model", "none", "--keys-file", "keys"]);
    assert!(refused.status.code() == Some(2) && errors(&refused).contains("has no keys"));
}
