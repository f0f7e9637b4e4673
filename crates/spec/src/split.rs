//! How many ranks can share a model's layers, or hold consecutive ones, and what is said when a number cannot.

use crate::Model;

/// Virtual shards of sums that tensor ranks may split where a network generates or scores: what
/// `numerics.tensor_shards` is unless a run says otherwise.
pub const SHARDS: usize = 8;

/// The sizes that tensor parallelism cuts into equal parts.
fn sizes(model: &Model) -> [(&'static str, usize); 3] {
    [("heads", model.heads), ("kv_heads", model.kv_heads), ("ffn", model.ffn)]
}

/// All numbers of tensor ranks that can share the layers of `model`, ascending.
pub fn tensor_sizes(model: &Model) -> Vec<usize> {
    let works = |t: &usize| sizes(model).iter().all(|(_, size)| size.is_multiple_of(*t));
    (1..=model.kv_heads).filter(works).collect()
}

/// Why `tensor` ranks cannot share the layers of `model`, with what would work, and the nearest number that can.
pub fn refuse_tensor(model: &Model, tensor: usize) -> Option<(String, usize)> {
    let (what, size) = sizes(model).into_iter().find(|(_, size)| size % tensor != 0)?;
    let works = tensor_sizes(model);
    let nearest = works.iter().copied().min_by_key(|t| t.abs_diff(tensor)).unwrap_or(1);
    Some((format!("{what} {size} cannot be split by tensor {tensor}: use {}", or_list(&works)), nearest))
}

/// Why `stages` of `chunks` runs of layers each cannot hold `model`, and the most stages that can.
pub fn refuse_pipeline(model: &Model, stages: usize, chunks: usize) -> Option<(String, usize)> {
    let layers = model.layers;
    (layers < stages * chunks).then(|| {
        let most = (layers / chunks).max(1).min(stages);
        (format!("{layers} layers cannot fill {stages} stages of {chunks} chunks"), most)
    })
}

/// `1, 2 or 4`.
pub fn or_list(numbers: &[usize]) -> String {
    let words: Vec<String> = numbers.iter().map(usize::to_string).collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => words.join(""),
    }
}
