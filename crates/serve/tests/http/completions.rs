//! What clients of OpenAI's API and evaluators rely on.

use crate::setup::{CONTEXT, Setup, tokenizer};
use serde_json::{Value, json};

#[test]
fn the_same_request_gives_the_same_text_whole_streamed_together_and_from_the_cache() {
    let server = Setup::default().start();
    let body = |seed| json!({"prompt": "the cat sat on", "max_tokens": 40, "seed": seed, "logprobs": 3});
    // A text that does not end by itself.
    let seed = (0..50)
        .find(|&seed| server.complete(&body(seed))["choices"][0]["finish_reason"] == "length")
        .expect("one text of fifty goes on for 40 tokens");
    let request = |extra: Value| {
        let mut body = body(seed);
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    let whole = server.complete(&request(json!({})));
    assert_eq!(whole["choices"], server.complete(&request(json!({})))["choices"]);
    let together = server.complete(&request(json!({"prompt": ["a dog", "the cat sat on"]})));
    assert_eq!(together["choices"][1]["text"], whole["choices"][0]["text"]);
    assert_eq!(together["choices"][1]["logprobs"], whole["choices"][0]["logprobs"]);

    let options = json!({"stream": true, "stream_options": {"include_usage": true}});
    let events = server.post("/v1/completions", &request(options)).events();
    let (last, chunks) = events.split_last().unwrap();
    assert_eq!(
        (&last["choices"], &last["usage"]["completion_tokens"]),
        (&json!([]), &whole["usage"]["completion_tokens"])
    );
    let choices: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]).collect();
    let text: String = choices.iter().map(|choice| choice["text"].as_str().unwrap()).collect();
    assert_eq!(text, whole["choices"][0]["text"]);
    for field in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        let told: Vec<Value> =
            choices.iter().flat_map(|choice| choice["logprobs"][field].as_array().unwrap().clone()).collect();
        assert_eq!(Value::Array(told), whole["choices"][0]["logprobs"][field], "{field}");
    }
    let ends = choices.iter().filter(|choice| !choice["finish_reason"].is_null()).count();
    assert_eq!((ends, &chunks.last().unwrap()["choices"][0]["finish_reason"]), (1, &json!("length")));
}

#[test]
fn echo_with_logprobs_is_what_evaluators_read() {
    let server = Setup::default().start();
    let ids = [tokenizer().encode("the dog 你好").unwrap(), tokenizer().encode("a").unwrap()];
    let body = json!({
        "model": "hash", "prompt": ids, "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": true,
    });
    let answer = server.complete(&body);
    for (index, ids) in ids.iter().enumerate() {
        let choice = &answer["choices"][index];
        let list = |field: &str| choice["logprobs"][field].as_array().unwrap().clone();
        let (chosen, top, names) = (list("token_logprobs"), list("top_logprobs"), list("tokens"));
        assert_eq!((chosen.len(), top.len(), names.len()), (ids.len() + 1, ids.len() + 1, ids.len() + 1));
        assert!(chosen[0].is_null() && top[0].is_null());
        for place in 1..=ids.len() {
            // The same float in both, and the likeliest is among them.
            assert_eq!(top[place][names[place].as_str().unwrap()], chosen[place]);
            let highest = top[place]
                .as_object()
                .unwrap()
                .values()
                .map(|v| v.as_f64().unwrap())
                .fold(f64::MIN, f64::max);
            assert!(chosen[place].as_f64().unwrap() <= highest);
        }
        // The new token is the likeliest one.
        assert_eq!(top[ids.len()].as_object().unwrap().len(), 1);
    }
    assert_eq!(answer["usage"]["prompt_tokens"], json!(ids[0].len() + ids[1].len()));
    // Without a new token: the same scores, and nothing behind them.
    let mut none = body;
    none["max_tokens"] = json!(0);
    let scored = server.complete(&none);
    let with = answer["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap().clone();
    assert_eq!(scored["choices"][0]["logprobs"]["token_logprobs"], json!(with[..ids[0].len()]));
    assert_eq!(scored["choices"][0]["text"], "the dog 你好");
    assert_eq!(scored["usage"]["completion_tokens"], 0);
    // The same text as a string, streamed.
    let mut text = none;
    text["prompt"] = json!("the dog 你好");
    text["stream"] = json!(true);
    let events = server.post("/v1/completions", &text).events();
    let told: Vec<Value> = events
        .iter()
        .flat_map(|event| event["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap().clone())
        .collect();
    assert_eq!(Value::Array(told), json!(with[..ids[0].len()]));
}

/// Evaluators leave the last entry out, which is the new token: were an end without entry, they would lose a token
/// of the prompt.
#[test]
fn a_token_that_ends_a_text_is_told_with_its_log_probability_and_no_text() {
    let server = Setup::default().start();
    let (body, ended) = (0..200)
        .map(|seed| json!({"prompt": "the cat", "max_tokens": 60, "seed": seed, "logprobs": 1}))
        .find_map(|body| {
            let answer = server.complete(&body);
            (answer["choices"][0]["finish_reason"] == "stop").then_some((body, answer))
        })
        .expect("one text of two hundred ends by itself");
    let logprobs =
        |answer: &Value, field: &str| answer["choices"][0]["logprobs"][field].as_array().unwrap().clone();
    let tokens = logprobs(&ended, "tokens");
    assert_eq!(tokens.last(), Some(&json!("<|endoftext|>")));
    assert!(logprobs(&ended, "token_logprobs").iter().all(Value::is_number));
    assert_eq!(ended["usage"]["completion_tokens"], json!(tokens.len()));
    let text = ended["choices"][0]["text"].as_str().unwrap();
    assert!(!text.contains("<|endoftext|>"));
    assert_eq!(logprobs(&ended, "text_offset").last(), Some(&json!(text.chars().count())));
    let mut echoed = body.clone();
    echoed["echo"] = json!(true);
    let prompt = tokenizer().encode("the cat").unwrap().len();
    assert_eq!(logprobs(&server.complete(&echoed), "tokens").len(), prompt + tokens.len());
    let mut streamed = body;
    streamed["stream"] = json!(true);
    let told: Vec<Value> = server
        .post("/v1/completions", &streamed)
        .events()
        .iter()
        .flat_map(|event| event["choices"][0]["logprobs"]["tokens"].as_array().unwrap().clone())
        .collect();
    assert_eq!(told, tokens);
}

#[test]
fn several_texts_have_seeds_of_their_own_and_stop_strings_end_them() {
    let server = Setup::default().start();
    let answer = server.complete(&json!({"prompt": ["a", "b"], "n": 3, "seed": 1, "max_tokens": 30}));
    let choices = answer["choices"].as_array().unwrap();
    let texts: Vec<&str> = choices.iter().map(|choice| choice["text"].as_str().unwrap()).collect();
    assert_eq!(
        choices.iter().map(|choice| choice["index"].as_u64().unwrap()).collect::<Vec<_>>(),
        [0, 1, 2, 3, 4, 5]
    );
    assert_ne!(texts[0], texts[1]);
    assert_eq!(answer["usage"]["prompt_tokens"], 2);
    let stop: String = texts[0].chars().filter(|&c| c != '\u{fffd}').skip(5).take(1).collect();
    let stopped = server.complete(&json!({"prompt": "a", "seed": 1, "max_tokens": 30, "stop": [stop]}));
    let text = stopped["choices"][0]["text"].as_str().unwrap();
    assert_eq!(text, texts[0].split(&stop).next().unwrap());
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    server.wait_for_idle();
}

#[test]
fn a_full_context_ends_a_text_and_a_longer_prompt_is_refused() {
    let server = Setup::default().start();
    let answer =
        server.complete(&json!({"prompt": vec![5; CONTEXT - 3], "max_tokens": 100, "temperature": 0}));
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    let answer = server.post("/v1/completions", &json!({"prompt": vec![5; CONTEXT + 1], "max_tokens": 1}));
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (400, &json!("context_length_exceeded")));
}

#[test]
fn a_chat_is_answered_whole_and_streamed() {
    let server = Setup::default().start();
    let mut body = json!({
        "messages": [{"role": "system", "content": "Be brief."},
                     {"role": "user", "content": [{"type": "text", "text": "你好 <|endoftext|>"}]}],
        "max_tokens": 12, "seed": 3, "logprobs": true, "top_logprobs": 2,
    });
    let answer = server.post("/v1/chat/completions", &body);
    assert_eq!(answer.status, 200, "{answer:?}");
    let choice = &answer.json()["choices"][0];
    assert_eq!(choice["message"]["role"], "assistant");
    let content = choice["logprobs"]["content"].as_array().unwrap();
    assert!(content.iter().all(|token| token["top_logprobs"].as_array().unwrap().len() == 2));
    body["stream"] = json!(true);
    let events = server.post("/v1/chat/completions", &body).events();
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    let text: String =
        events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, choice["message"]["content"]);
    let refused =
        server.post("/v1/chat/completions", &json!({"messages": [{"role": "robot", "content": "x"}]}));
    assert_eq!((refused.status, &refused.json()["error"]["param"]), (400, &json!("messages[0].role")));
}

#[test]
fn texts_keep_to_a_schema_or_a_choice() {
    let server = Setup::default().start();
    // As text: the order in which properties are declared counts.
    let format = r#"{"type": "json_schema", "json_schema": {"name": "animal", "schema": {
        "type": "object",
        "properties": {"zoo": {"type": "string", "maxLength": 5}, "age": {"type": "integer"}, "cat": {"type": "boolean"}},
        "required": ["zoo", "cat"], "additionalProperties": false
    }}}"#;
    let mut ended = 0;
    for seed in 0..10 {
        let body =
            format!(r#"{{"prompt": "x", "max_tokens": 200, "seed": {seed}, "response_format": {format}}}"#);
        let answer = server.post_bytes("/v1/completions", body.as_bytes());
        assert_eq!(answer.status, 200, "{answer:?}");
        let choice = answer.json()["choices"][0].clone();
        if choice["finish_reason"] == "stop" {
            ended += 1;
            let text = choice["text"].as_str().unwrap();
            let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert!(value["zoo"].as_str().unwrap().chars().count() <= 5 && value["cat"].is_boolean());
            // In the order in which they are declared.
            assert!(text.find("zoo").unwrap() < text.find("\"cat\"").unwrap());
        }
        let body =
            json!({"prompt": "x", "seed": seed, "structured_outputs": {"choice": ["the cat", "the dog"]}});
        let text = server.complete(&body)["choices"][0]["text"].clone();
        assert!(text == "the cat" || text == "the dog", "{text}");
    }
    assert!(ended > 0, "no text came to its end");
    let body = json!({"prompt": "x", "structured_outputs": {"json": {"type": "integer", "minimum": 2}}});
    let answer = server.post("/v1/completions", &body);
    assert!(answer.status == 400 && answer.error().contains("`minimum`"), "{answer:?}");
}

#[test]
fn the_tokenizer_answers_as_evaluators_ask() {
    let server = Setup::default().start();
    let body = json!({"prompt": "the cat<|endoftext|>", "add_special_tokens": false});
    let tokens = server.post("/tokenize", &body).json()["tokens"].clone();
    let mut expected = tokenizer().encode("the cat").unwrap();
    expected.push(tokenizer().eod().unwrap());
    assert_eq!(tokens, json!(expected));
    assert_eq!(
        server.post("/detokenize", &json!({"tokens": tokens})).json()["prompt"],
        "the cat<|endoftext|>"
    );
    assert_eq!(server.get("/tokenizer_info").json()["eos_token"], "<|endoftext|>");
    assert_eq!(server.post("/detokenize", &json!({"tokens": [9999]})).status, 400);
    assert_eq!(server.get("/v1/models").json()["data"][0]["id"], "hash");
}

#[test]
fn the_page_and_the_description_load_nothing_from_elsewhere() {
    let server = Setup::default().start();
    let page = server.get("/");
    assert!(page.head.contains("default-src 'none'") && page.body.contains("</html>"));
    for outside in ["http://", "https://", "src=\"", "@import", "url("] {
        assert!(!page.body.contains(outside), "{outside}");
    }
    assert_eq!(server.get("/openapi.json").body, triax_serve::openapi());
}

/// Of each request schema: exactly the fields the server knows, as its refusal of another one shows.
#[test]
fn the_description_names_every_field_that_is_taken() {
    let server = Setup::default().start();
    let description: Value = serde_json::from_str(triax_serve::openapi()).unwrap();
    for (path, name) in [
        ("/v1/completions", "CompletionRequest"),
        ("/v1/chat/completions", "ChatRequest"),
        ("/tokenize", "TokenizeRequest"),
        ("/detokenize", "DetokenizeRequest"),
    ] {
        let schema = &description["components"]["schemas"][name];
        for field in schema["properties"].as_object().unwrap().keys() {
            // A wrong type is refused by the field's name: the field is known.
            let mut body =
                json!({"prompt": "x", "messages": [{"role": "user", "content": "x"}], "tokens": [1]});
            body.as_object_mut().unwrap().retain(|key, _| schema["properties"].get(key).is_some());
            body[field] = json!({"no": {"such": "value"}});
            let answer = server.post(path, &body);
            let param = answer.json()["error"]["param"].as_str().unwrap_or_default().to_owned();
            assert!(answer.status == 400 && param.starts_with(field.as_str()), "{path} {field}: {answer:?}");
            assert_ne!(answer.error(), format!("there is no field `{field}`"), "{path}");
        }
    }
}
