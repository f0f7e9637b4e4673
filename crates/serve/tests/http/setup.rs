//! A server on a port of its own, and a client that speaks plain HTTP.

use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use triax_data::{Tokenizer, TokenizerKind};
use triax_infer::{Engine, Network, Part, Shape};
use triax_serve::{ChatTemplate, Keys, Limits, Served, serve};

pub(crate) const CONTEXT: usize = 256;
const BLOCK: usize = 4;

/// Its logits are a hash of the tokens it finds in its blocks.
struct Hashing {
    shape: Shape,
    memory: Vec<u32>,
    /// Each pass takes so long.
    pause: Duration,
}

impl Network for Hashing {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn step(&mut self, parts: &[Part<'_>], each: &mut dyn FnMut(usize, &[f32])) {
        std::thread::sleep(self.pause);
        let place = |part: &Part<'_>, i: usize| part.blocks[i / BLOCK] as usize * BLOCK + i % BLOCK;
        for part in parts {
            for (i, &token) in part.tokens.iter().enumerate() {
                self.memory[place(part, part.past + i)] = token;
            }
        }
        let mut row = 0;
        for part in parts {
            let end = part.past + part.tokens.len();
            for last in end - part.logits..end {
                let mut hash = (0..=last).fold(7u64, |hash, i| {
                    (hash ^ u64::from(self.memory[place(part, i)])).wrapping_mul(0x0000_0100_0000_01b3)
                });
                let logits: Vec<f32> = (0..self.shape.vocab)
                    .map(|_| {
                        hash = hash
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1_442_695_040_888_963_407);
                        (hash >> 40) as f32 / 2f32.powi(22)
                    })
                    .collect();
                each(row, &logits);
                row += 1;
            }
        }
    }
}

pub(crate) fn tokenizer() -> Tokenizer {
    let texts = ["the cat sat on the mat, and the dog sat on the log", "{\"name\": \"cat\"}", "你好，世界"];
    let texts = texts.iter().flat_map(|text| std::iter::repeat_n(*text, 9));
    Tokenizer::train(TokenizerKind::Bpe, 300, texts).unwrap()
}

pub(crate) struct Setup {
    pub(crate) pause: Duration,
    pub(crate) limits: Limits,
    pub(crate) keys: Option<&'static str>,
    pub(crate) sequences: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Self { pause: Duration::ZERO, limits: Limits::default(), keys: None, sequences: 4 }
    }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), triax_serve::ServeError>>>,
}

impl Setup {
    pub(crate) fn start(self) -> Server {
        let tokenizer = tokenizer();
        let shape = Shape {
            vocab: tokenizer.vocab(),
            context: CONTEXT,
            block: BLOCK,
            blocks: 2 * CONTEXT / BLOCK,
            rows: 64,
            sequences: self.sequences,
            prefix_mask: false,
        };
        let memory = vec![0; shape.blocks * BLOCK];
        let network = Hashing { shape, memory, pause: self.pause };
        let engine = Engine::new(Box::new(network), tokenizer.eod());
        let template =
            "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:";
        let chat_template = Some(ChatTemplate { source: template.to_owned(), start: None });
        let served = Served { name: "hash".into(), engine, tokenizer, chat_template };
        let keys = self.keys.map(|text| {
            let file = std::env::temp_dir().join(format!("triax-keys-{}", std::process::id()));
            std::fs::write(&file, text).unwrap();
            Keys::load(&file).unwrap()
        });
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, receiver) = channel();
        let flag = Arc::clone(&stop);
        let limits = self.limits;
        let thread = std::thread::spawn(move || {
            serve(served, ([127, 0, 0, 1], 0).into(), keys, limits, &flag, |address| {
                sender.send(address).unwrap();
            })
        });
        Server { address: receiver.recv().unwrap(), stop, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn error(&self) -> String {
        self.json()["error"]["message"].as_str().unwrap().to_owned()
    }

    /// The values of a stream's events; the last event must be `[DONE]`.
    pub(crate) fn events(&self) -> Vec<Value> {
        let mut events: Vec<&str> = self.body.split("\n\n").filter(|event| !event.is_empty()).collect();
        assert_eq!(events.pop(), Some("data: [DONE]"), "{self:?}");
        events
            .iter()
            .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
            .collect()
    }
}

impl Server {
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Sends `head` lines and `body` as they are.
    pub(crate) fn raw(&self, head: &str, body: &[u8]) -> Answer {
        let mut stream = self.connect();
        let head = format!("{head}\r\nHost: test\r\nConnection: close\r\n\r\n");
        // In one piece: a server that refuses by the head alone leaves nothing unread.
        stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
        read(&mut stream)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.raw(&format!("GET {path} HTTP/1.1"), b"")
    }

    pub(crate) fn post_bytes(&self, path: &str, body: &[u8]) -> Answer {
        let length = body.len();
        let head =
            format!("POST {path} HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {length}");
        self.raw(&head, body)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_bytes(path, body.to_string().as_bytes())
    }

    pub(crate) fn complete(&self, body: &Value) -> Value {
        let answer = self.post("/v1/completions", body);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// A metric without labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} in {text}")).parse().unwrap()
    }

    /// Waits until the server is idle and all its memory is free.
    pub(crate) fn wait_for_idle(&self) {
        let begin = Instant::now();
        while self.get("/health").json()["texts"] != 0 || self.metric("triax_kv_blocks_used") != 0.0 {
            assert!(begin.elapsed() < Duration::from_secs(10), "blocks are held by nobody");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

pub(crate) fn read(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let split = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer has a head");
    let head = String::from_utf8(bytes[..split].to_vec()).unwrap();
    let mut body = bytes.split_off(split + 4);
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        body = unchunk(&body);
    }
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, body: String::from_utf8(body).unwrap() }
}

fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let end = bytes.windows(2).position(|two| two == b"\r\n").expect("a chunk has a size");
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return whole;
        }
        whole.extend_from_slice(&bytes[end + 2..end + 2 + size]);
        bytes = &bytes[end + 2 + size + 2..];
    }
}
