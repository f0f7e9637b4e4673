//! A network behind HTTP: any server with `/v1/completions` that echoes prompts with their log-probabilities.
//!
//! ```text
//! score      POST /v1/completions { prompt: [[ids], …], echo: true, logprobs: 1, max_tokens: 1 }
//!            → choices[index].logprobs.token_logprobs: null, ln p of each id after the first, one new token
//! tokenizer  GET /tokenizer_info · POST /tokenize { prompt } · POST /detokenize { tokens }
//! ```

use crate::border::Codec;
use crate::error::EvalError;
use serde_json::{Value, json};
use std::time::Duration;
use triax_infer::{GenerateRequest, Generated, InferError, ScoreReply, ScoreRequest, Scorer};

/// Prompts in one call.
const PROMPTS_AT_ONCE: usize = 32;

/// Attempts before a busy server is given up.
const ATTEMPTS: u32 = 8;

/// Longest answer read.
const LARGEST: u64 = 1 << 30;

#[derive(Clone, Debug)]
pub struct Server {
    agent: ureq::Agent,
    /// Without a slash or `/v1/…` at the end.
    base: String,
    key: Option<String>,
    /// The name it serves the network under.
    pub model: String,
    /// Its own count of tokens a text may have.
    pub context: Option<usize>,
}

impl Server {
    /// Asks the server for the network's name.
    ///
    /// # Errors
    /// When it does not answer, or not as such servers do.
    pub fn connect(url: &str, key: Option<String>) -> Result<Self, EvalError> {
        let base = url.trim_end_matches('/').trim_end_matches("/v1/completions").trim_end_matches("/v1");
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_global(Some(Duration::from_secs(600)))
            .http_status_as_error(false)
            .build()
            .into();
        let mut server = Self { agent, base: base.to_owned(), key, model: String::new(), context: None };
        let models = server.get("/v1/models")?;
        let first = &models["data"][0];
        let Some(name) = first["id"].as_str() else {
            return Err(server.fault("/v1/models", "names no model in data[0].id"));
        };
        server.model = name.to_owned();
        server.context = ["max_model_len", "context_length"]
            .iter()
            .find_map(|name| first[*name].as_u64())
            .and_then(|length| usize::try_from(length).ok());
        Ok(server)
    }

    fn get(&self, path: &str) -> Result<Value, EvalError> {
        self.call(path, None)
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value, EvalError> {
        self.call(path, Some(body))
    }

    fn call(&self, path: &str, body: Option<&Value>) -> Result<Value, EvalError> {
        let url = format!("{}{path}", self.base);
        let mut attempt = 1;
        loop {
            let authorization = self.key.as_ref().map(|key| format!("Bearer {key}"));
            let sent = match body {
                None => {
                    let mut request = self.agent.get(&url);
                    if let Some(value) = &authorization {
                        request = request.header("authorization", value);
                    }
                    request.call()
                }
                Some(body) => {
                    let mut request = self.agent.post(&url).header("content-type", "application/json");
                    if let Some(value) = &authorization {
                        request = request.header("authorization", value);
                    }
                    request.send(body.to_string().as_bytes())
                }
            };
            let mut response = sent.map_err(|error| self.fault(path, error.to_string()))?;
            let status = response.status().as_u16();
            if matches!(status, 429 | 503) && attempt < ATTEMPTS {
                let wait = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
                let seconds = wait.and_then(|wait| wait.parse().ok()).unwrap_or(1u64).min(30);
                std::thread::sleep(Duration::from_secs(seconds));
                attempt += 1;
                continue;
            }
            let bytes = response.body_mut().with_config().limit(LARGEST).read_to_vec();
            let bytes = bytes.map_err(|error| self.fault(path, error.to_string()))?;
            let answer: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            if status != 200 {
                let message = answer["error"]["message"].as_str().unwrap_or("no reason given");
                return Err(self.fault(path, format!("status {status}: {message}")));
            }
            return match answer {
                Value::Null => Err(self.fault(path, "the answer is no JSON")),
                answer => Ok(answer),
            };
        }
    }

    fn fault(&self, path: &str, message: impl Into<String>) -> EvalError {
        EvalError::Server { url: format!("{}{path}", self.base), message: message.into() }
    }
}

/// Scores texts on a [`Server`].
#[derive(Debug)]
pub struct RemoteScorer {
    server: Server,
    /// Tokens of a text, as the server counts.
    context: usize,
}

impl RemoteScorer {
    /// `context`: most tokens of a text, the one that the call makes included.
    pub fn new(server: Server, context: usize) -> Self {
        Self { server, context }
    }

    fn replies(&self, requests: &[ScoreRequest]) -> Result<Vec<ScoreReply>, EvalError> {
        const PATH: &str = "/v1/completions";
        let prompts: Vec<Vec<u32>> =
            requests.iter().map(|request| [&request.context[..], &request.continuation].concat()).collect();
        let body = json!({
            "model": self.server.model, "prompt": prompts, "temperature": 0, "max_tokens": 1,
            "logprobs": 1, "echo": true, "seed": 1234,
        });
        let answer = self.server.post(PATH, &body)?;
        let choices = answer["choices"].as_array().map_or(&[][..], Vec::as_slice);
        requests
            .iter()
            .enumerate()
            .map(|(index, request)| {
                let choice = choices.iter().find(|choice| choice["index"] == index);
                let reply = choice.and_then(|choice| reply(&choice["logprobs"], request));
                reply.ok_or_else(|| {
                    let message =
                        format!("prompt {index}: no log-probabilities of the prompt's own tokens (echo)");
                    self.server.fault(PATH, message)
                })
            })
            .collect()
    }
}

/// `None` where the server's lists do not cover the request.
fn reply(logprobs: &Value, request: &ScoreRequest) -> Option<ScoreReply> {
    let places = request.context.len()..request.context.len() + request.continuation.len();
    let log_probs = logprobs["token_logprobs"].as_array()?.get(places.clone())?;
    let log_probs: Vec<f64> = log_probs.iter().map(Value::as_f64).collect::<Option<_>>()?;
    let top = logprobs["top_logprobs"].as_array()?.get(places)?;
    let greedy = top.iter().zip(&log_probs).map(|(top, &log_prob)| {
        let likeliest = top.as_object()?.values().filter_map(Value::as_f64).fold(f64::MIN, f64::max);
        Some(log_prob >= likeliest)
    });
    let greedy = greedy.collect::<Option<_>>()?;
    Some(ScoreReply {
        log_probs: log_probs.into_iter().map(|log_prob| log_prob as f32).collect(),
        greedy,
        top: Vec::new(),
    })
}

impl Scorer for RemoteScorer {
    fn vocab(&self) -> usize {
        u32::MAX as usize
    }

    fn context_length(&self) -> usize {
        // One token is made by each call, and a scored text may have one more than the context.
        self.context.saturating_sub(2)
    }

    fn score(&mut self, requests: &[ScoreRequest]) -> Result<Vec<ScoreReply>, InferError> {
        let mut replies = Vec::with_capacity(requests.len());
        for requests in requests.chunks(PROMPTS_AT_ONCE) {
            let found = self.replies(requests);
            replies.extend(found.map_err(|error| InferError::Elsewhere { message: error.to_string() })?);
        }
        Ok(replies)
    }

    fn generate(&mut self, _: &[GenerateRequest]) -> Result<Vec<Generated>, InferError> {
        Err(InferError::Elsewhere {
            message: "texts are not generated on a server by this program".to_owned(),
        })
    }
}

/// A [`Server`]'s own tokenizer.
#[derive(Debug)]
pub struct RemoteCodec {
    server: Server,
    /// The token that begins a document.
    pub start: Option<u32>,
}

impl RemoteCodec {
    /// A document begins with the server's BOS token, else with its EOS token, where it has one.
    ///
    /// # Errors
    /// When the server does not tell of its tokenizer.
    pub fn new(server: Server) -> Result<Self, EvalError> {
        let info = server.get("/tokenizer_info")?;
        let mut codec = Self { server, start: None };
        let name = ["bos_token", "eos_token"].iter().find_map(|name| info[*name].as_str());
        if let Some(name) = name {
            codec.start = match codec.encode(name)?.as_slice() {
                &[id] => Some(id),
                _ => None,
            };
        }
        Ok(codec)
    }
}

impl Codec for RemoteCodec {
    fn encode(&self, text: &str) -> Result<Vec<u32>, EvalError> {
        let answer =
            self.server.post("/tokenize", &json!({ "prompt": text, "add_special_tokens": false }))?;
        let ids = answer["tokens"].as_array().and_then(|ids| {
            ids.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect::<Option<_>>()
        });
        ids.ok_or_else(|| self.server.fault("/tokenize", "the answer has no list of ids in `tokens`"))
    }

    fn decode(&self, ids: &[u32]) -> Result<String, EvalError> {
        let answer = self.server.post("/detokenize", &json!({ "tokens": ids }))?;
        let text = answer["prompt"].as_str().map(str::to_owned);
        text.ok_or_else(|| self.server.fault("/detokenize", "the answer has no text in `prompt`"))
    }

    fn start(&self) -> Option<u32> {
        self.start
    }

    fn name(&self) -> String {
        format!("{} of {}", self.server.model, self.server.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;

    /// Answers one connection after another from `answers`, keeping what was asked.
    fn serve(answers: Vec<(u16, Value)>) -> (String, std::thread::JoinHandle<Vec<Value>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1/completions", listener.local_addr().unwrap());
        let thread = std::thread::spawn(move || {
            let mut asked = Vec::new();
            for (status, answer) in answers {
                let (stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(stream);
                let (mut length, mut line) = (0, String::new());
                while reader.read_line(&mut line).unwrap() > 2 {
                    if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    line.clear();
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                asked.push(serde_json::from_slice(&body).unwrap_or(Value::Null));
                let text = answer.to_string();
                let head = format!(
                    "HTTP/1.1 {status} X\r\nretry-after: 0\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                    text.len()
                );
                reader.get_mut().write_all(format!("{head}{text}").as_bytes()).unwrap();
            }
            asked
        });
        (url, thread)
    }

    fn models() -> (u16, Value) {
        (200, json!({ "data": [{ "id": "m", "max_model_len": 64 }] }))
    }

    fn request(context: &[u32], continuation: &[u32]) -> ScoreRequest {
        ScoreRequest {
            context: context.to_vec(),
            continuation: continuation.to_vec(),
            ..ScoreRequest::default()
        }
    }

    #[test]
    fn the_prompts_own_tokens_are_scored_and_compared_with_the_likeliest() {
        let choice = |index: usize, logprobs: Value| json!({ "index": index, "logprobs": logprobs });
        let answer = json!({ "choices": [
            choice(1, json!({
                "token_logprobs": [null, -0.5, -3.0], "top_logprobs": [null, { "a": -0.5 }, { "b": -3.0 }],
            })),
            choice(0, json!({
                "token_logprobs": [null, -9.0, -1.5, -0.25, -7.0],
                "top_logprobs": [null, { "x": -9.0 }, { "y": -0.3, "z": -1.5 }, { "w": -0.25 }, { "v": -7.0 }],
            })),
        ] });
        let (url, thread) = serve(vec![models(), (503, json!({})), (200, answer)]);
        let server = Server::connect(&url, Some("secret".to_owned())).unwrap();
        assert_eq!((server.model.as_str(), server.context), ("m", Some(64)));
        let mut scorer = RemoteScorer::new(server, 64);
        assert_eq!(scorer.context_length(), 62);
        let found = scorer.score(&[request(&[1, 2], &[3, 4]), request(&[5], &[6])]).unwrap();
        assert_eq!((&found[0].log_probs[..], &found[0].greedy[..]), (&[-1.5, -0.25][..], &[false, true][..]));
        assert_eq!((&found[1].log_probs[..], &found[1].greedy[..]), (&[-0.5][..], &[true][..]));
        let asked = thread.join().unwrap();
        assert_eq!(asked[2]["prompt"], json!([[1, 2, 3, 4], [5, 6]]));
        assert_eq!((&asked[2]["echo"], &asked[2]["max_tokens"]), (&json!(true), &json!(1)));
    }

    #[test]
    fn a_server_without_echo_is_refused_and_not_scored_as_chance() {
        let answer = json!({ "choices": [{ "index": 0, "logprobs": { "token_logprobs": [-1.0], "top_logprobs": [{}] } }] });
        let (url, thread) =
            serve(vec![models(), (200, answer), (400, json!({ "error": { "message": "no echo" } }))]);
        let mut scorer = RemoteScorer::new(Server::connect(&url, None).unwrap(), 64);
        let message = scorer.score(&[request(&[1], &[2])]).unwrap_err().to_string();
        assert!(message.contains("no log-probabilities of the prompt's own tokens"), "{message}");
        let message = scorer.score(&[request(&[1], &[2])]).unwrap_err().to_string();
        assert!(message.contains("status 400: no echo"), "{message}");
        thread.join().unwrap();
    }

    #[test]
    fn the_servers_tokenizer_encodes_decodes_and_tells_the_start() {
        let (url, thread) = serve(vec![
            models(),
            (200, json!({ "bos_token": null, "eos_token": "<e>" })),
            (200, json!({ "tokens": [0] })),
            (200, json!({ "tokens": [7, 8] })),
            (200, json!({ "prompt": "hello" })),
        ]);
        let codec = RemoteCodec::new(Server::connect(&url, None).unwrap()).unwrap();
        assert_eq!(codec.start(), Some(0));
        assert_eq!(codec.encode("hello").unwrap(), [7, 8]);
        assert_eq!(codec.decode(&[7, 8]).unwrap(), "hello");
        assert_eq!(thread.join().unwrap()[3]["add_special_tokens"], false);
    }
}
