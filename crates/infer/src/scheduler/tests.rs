//! Whatever the engine does at once, each text comes out as if it were alone.

use super::*;
use crate::Sampling;
use crate::distribution::Distribution;
use crate::network::tests::{Hashing, SHAPE};
use crate::sampling::Sampler;
use proptest::prelude::*;

fn engine(shape: Shape) -> Engine {
    Engine::new(Box::new(Hashing::new(shape)), Some(0))
}

/// A text continued without any engine.
fn alone(request: &GenerateRequest) -> Vec<TokenScore> {
    let mut sampler = Sampler::new(request.sampling).unwrap();
    let mut text = request.prompt.clone();
    let mut made = Vec::new();
    while made.len() < request.max_tokens && text.len() <= SHAPE.context {
        let logits = Hashing::logits(SHAPE.vocab, &text);
        let done = &text[request.prompt.len()..];
        let token = sampler.choose(&logits, done, None, text.len() as u64).unwrap();
        text.push(token);
        made.push(Distribution::new(&logits).unwrap().score(token, request.top, &[]));
        if request.stop_tokens.contains(&token) {
            made.pop();
            break;
        }
    }
    made
}

fn scored(request: &ScoreRequest) -> ScoreReply {
    let mut text = request.context.clone();
    let mut reply = ScoreReply::default();
    for &token in &request.continuation {
        let logits = Hashing::logits(SHAPE.vocab, &text);
        let score = Distribution::new(&logits).unwrap().score(token, request.top, &request.also);
        reply.log_probs.push(score.log_prob);
        reply.greedy.push(score.greedy);
        reply.top.push(score.top);
        text.push(token);
    }
    reply
}

/// Texts with common beginnings.
fn text(lengths: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Vec<u32>> {
    (lengths, 0u32..3, 0usize..20).prop_map(|(length, kind, split)| {
        (0..length).map(|i| if i < split { i as u32 % 7 } else { (i as u32 * 3 + kind) % 11 }).collect()
    })
}

fn request() -> impl Strategy<Value = GenerateRequest> {
    let sampling = (prop_oneof![Just(0.0f32), 0.5f32..2.0], 0u64..3, 0.0f32..1.0).prop_map(
        |(temperature, seed, presence_penalty)| Sampling {
            temperature,
            seed,
            presence_penalty,
            ..Sampling::GREEDY
        },
    );
    (text(1..=SHAPE.context), 0usize..12, sampling, prop_oneof![Just(vec![]), Just(vec![3])], 0usize..3)
        .prop_map(|(prompt, max_tokens, sampling, stop_tokens, top)| GenerateRequest {
            prompt,
            max_tokens,
            sampling,
            stop_tokens,
            top,
        })
}

fn score_request() -> impl Strategy<Value = ScoreRequest> {
    (text(1..=SHAPE.context), 0usize..4, 1usize..SHAPE.context).prop_map(|(text, top, cut)| {
        let cut = cut.min(text.len());
        let (context, continuation) = (text[..cut].to_vec(), text[cut..].to_vec());
        ScoreRequest { context, continuation, top, also: vec![4; top] }
    })
}

fn shape() -> impl Strategy<Value = Shape> {
    (1usize..5, 0usize..8, 1usize..6, 0usize..20).prop_map(|(block, spare, sequences, rows)| Shape {
        block,
        blocks: SHAPE.context.div_ceil(block) + spare,
        sequences,
        rows: sequences + rows,
        ..SHAPE
    })
}

proptest! {
    #[test]
    fn texts_come_out_as_if_alone_and_all_memory_comes_back(
        shape in shape(), requests in proptest::collection::vec(request(), 1..9),
    ) {
        let mut engine = engine(shape);
        for _ in 0..2 {
            let generated = engine.generate(&requests).unwrap();
            for (request, generated) in requests.iter().zip(generated) {
                prop_assert_eq!(generated.tokens, alone(request));
            }
            prop_assert_eq!(engine.counters().blocks_held, 0);
        }
    }

    #[test]
    fn scores_come_out_as_if_alone(
        shape in shape(), requests in proptest::collection::vec(score_request(), 1..9),
    ) {
        let mut engine = engine(shape);
        for _ in 0..2 {
            let replies = engine.score(&requests).unwrap();
            for (request, reply) in requests.iter().zip(replies) {
                prop_assert_eq!(reply, scored(request));
            }
            prop_assert_eq!(engine.counters().blocks_held, 0);
        }
    }

    #[test]
    fn cancelled_texts_give_their_memory_back_and_change_nobody(
        shape in shape(), requests in proptest::collection::vec(request(), 2..9),
        cancelled in 0usize..9, after in 0usize..6,
    ) {
        let mut engine = engine(shape);
        let cancelled = cancelled % requests.len();
        let ids: Vec<JobId> =
            requests.iter().map(|r| engine.submit(Job::generate(r, None)).unwrap()).collect();
        let mut tokens = vec![Vec::new(); requests.len()];
        for pass in 0.. {
            if pass == after {
                engine.cancel(ids[cancelled]);
            }
            if pass > after && engine.is_idle() {
                break;
            }
            for (id, event) in engine.step() {
                prop_assert!(pass < after || id != ids[cancelled]);
                if let Event::Token(score) = event {
                    tokens[ids.iter().position(|&i| i == id).unwrap()].push(score);
                }
            }
        }
        prop_assert_eq!(engine.counters().blocks_held, 0);
        for (index, request) in requests.iter().enumerate().filter(|&(index, _)| index != cancelled) {
            prop_assert_eq!(&tokens[index], &alone(request));
        }
    }
}

#[test]
fn a_common_beginning_is_computed_once_even_by_texts_that_come_together() {
    let context: Vec<u32> = (0..17).map(|i| i % 7).collect();
    let requests: Vec<ScoreRequest> = (0..3)
        .map(|last| ScoreRequest {
            context: context.clone(),
            continuation: vec![last, 4],
            ..ScoreRequest::default()
        })
        .collect();
    let mut engine = engine(Shape { blocks: 30, ..SHAPE });
    engine.score(&requests).unwrap();
    // Blocks of four: 16 tokens once, then two rows of each text: behind the context, behind the choice.
    let counters = engine.counters();
    assert_eq!((counters.found_tokens, counters.prompt_tokens), (32, 57));
}

#[test]
fn a_prompt_scored_with_a_new_token_tells_both() {
    let mut engine = engine(SHAPE);
    let job = Job {
        score_from: Some(1),
        ..Job::generate(
            &GenerateRequest {
                prompt: vec![3, 1, 4],
                max_tokens: 1,
                sampling: Sampling::GREEDY,
                stop_tokens: Vec::new(),
                top: 2,
            },
            None,
        )
    };
    engine.submit(job).unwrap();
    let mut events = Vec::new();
    while !engine.is_idle() {
        events.extend(engine.step().into_iter().map(|(_, event)| event));
    }
    let places: Vec<usize> = events
        .iter()
        .filter_map(|event| match event {
            Event::Prompt { place, .. } => Some(*place),
            _ => None,
        })
        .collect();
    assert_eq!(places, [1, 2]);
    assert!(matches!(events[2..], [Event::Token(_), Event::End { finish: Finish::Length, found: 0 }]));
}

#[test]
fn a_prefix_model_gets_its_prompt_whole() {
    let shape = Shape { rows: SHAPE.context, prefix_mask: true, ..SHAPE };
    let mut engine = engine(shape);
    let request =
        ScoreRequest { context: (0..9).collect(), continuation: vec![1, 2, 3], top: 1, also: vec![7, 0] };
    for _ in 0..2 {
        assert_eq!(engine.score(std::slice::from_ref(&request)).unwrap(), [scored(&request)]);
    }
    assert_eq!(engine.counters().found_tokens, 0);
}

#[test]
fn impossible_prompts_are_refused_before_anything_runs() {
    let mut engine = engine(SHAPE);
    let mut refuse = |prompt: &[u32], max_tokens| {
        let request = GenerateRequest {
            prompt: prompt.to_vec(),
            max_tokens,
            sampling: Sampling::GREEDY,
            stop_tokens: Vec::new(),
            top: 0,
        };
        engine.submit(Job::generate(&request, None)).unwrap_err()
    };
    assert_eq!(refuse(&[], 1), InferError::Empty);
    assert_eq!(refuse(&[0; 25], 1), InferError::TooLong { tokens: 25, capacity: 24 });
    assert_eq!(refuse(&[0; 26], 0), InferError::TooLong { tokens: 26, capacity: 25 });
    assert_eq!(refuse(&[1, 11], 1), InferError::Token { id: 11, place: 1, vocabulary: 11 });
    assert!(engine.is_idle());
}

#[test]
fn an_empty_text_begins_behind_the_end_of_another() {
    let request = |context: &[u32]| ScoreRequest {
        context: context.into(),
        continuation: vec![5, 6],
        ..ScoreRequest::default()
    };
    let replies = engine(SHAPE).score(&[request(&[]), request(&[0])]).unwrap();
    assert_eq!(replies[0], replies[1]);
}
