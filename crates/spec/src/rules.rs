//! What must hold between the values of a run, each rule with the keys it is about.

use crate::error::Fault;
use crate::keys::KEYS;
use crate::model::Positions;
use crate::run::{Amount, Decay, GlobalBatch, Precision, Run, Source, SpikeAction};
use crate::settings::Settings;
use crate::split;

struct Rule {
    /// The keys whose values it compares; a problem is shown at the first of them that was written.
    keys: &'static [&'static str],
    /// The rule in words and the values of this run, and what would work; none if it holds.
    broken: fn(&Run) -> Option<(String, String)>,
}

/// Reports every broken rule about keys that have no problem of their own.
pub(crate) fn check(run: &Run, settings: &mut Settings) {
    let mut report = |keys: &[&str], rule: String, works: String| {
        if keys.iter().any(|key| settings.is_faulty(key)) {
            return;
        }
        let written = keys.iter().find(|key| settings.get(key).is_some()).unwrap_or(&keys[0]);
        let fault = Fault::Rule { key: (*written).to_owned(), rule, works };
        settings.problems.push((settings.origin(keys), fault));
    };
    for rule in RULES {
        if let Some((text, works)) = (rule.broken)(run) {
            report(rule.keys, text, works);
        }
    }
    for (list, sources) in [("data.blend", &run.data.blend), ("data.validation", &run.data.validation)] {
        if let Some((first, second)) = duplicate(sources) {
            let path = sources[second].path.display();
            let rule = format!("{path} is already {list}[{first}], and a source may be listed once");
            let works = format!("one entry with weight {:?}", sources[first].weight + sources[second].weight);
            report(&[&format!("{list}[{second}].path"), list], rule, works);
        }
    }
    for key in KEYS {
        if let Some(only) = &key.only
            && settings.get(key.path).is_some()
            && !settings.is_faulty(only.key)
            && !settings.is_faulty("model.preset")
            && !(only.when)(run)
        {
            let fault = Fault::Rule {
                key: key.path.to_owned(),
                rule: format!("it has no effect without {}", only.setting),
                works: only.setting.to_owned(),
            };
            settings.problems.push((settings.origin(&[key.path]), fault));
        }
    }
}

fn duplicate(sources: &[Source]) -> Option<(usize, usize)> {
    let mut seen = std::collections::BTreeMap::new();
    sources
        .iter()
        .enumerate()
        .find_map(|(index, source)| seen.insert(&source.path, index).map(|first| (first, index)))
}

static RULES: &[Rule] = &[
    Rule {
        keys: &["model.heads", "model.head_dim", "model.hidden", "model.positions", "model.preset"],
        broken: |run| {
            let model = &run.model;
            let wrong = model.positions == Positions::Learned && model.heads * model.head_dim != model.hidden;
            let heads = nearest_divisor(model.hidden, model.heads);
            wrong.then(|| {
                (
                    format!(
                        "with learned positions hidden must be heads × head_dim, but {} ≠ {} × {}",
                        model.hidden, model.heads, model.head_dim
                    ),
                    format!("model.heads = {heads} with model.head_dim = {}", model.hidden / heads),
                )
            })
        },
    },
    Rule {
        keys: &["model.kv_heads", "model.heads", "model.preset"],
        broken: |run| {
            let model = &run.model;
            (model.heads % model.kv_heads != 0).then(|| {
                (
                    format!(
                        "heads must be a multiple of kv_heads, but {} % {} ≠ 0",
                        model.heads, model.kv_heads
                    ),
                    format!("model.kv_heads = {}", nearest_divisor(model.heads, model.kv_heads)),
                )
            })
        },
    },
    Rule {
        keys: &["model.head_dim", "model.heads", "model.hidden", "model.positions", "model.preset"],
        broken: |run| {
            let model = &run.model;
            (model.positions != Positions::Learned && model.head_dim % 2 != 0).then(|| {
                (
                    format!("rotary positions turn pairs, and head_dim {} is odd", model.head_dim),
                    format!("model.head_dim = {}", model.head_dim + 1),
                )
            })
        },
    },
    Rule {
        keys: &["train.sequence", "model.sequence", "model.preset"],
        broken: |run| {
            let (train, model) = (run.train.sequence, run.model.sequence);
            (train > model).then(|| {
                (
                    format!("samples of {train} tokens exceed the model's longest sequence, {model}"),
                    format!("train.sequence = {model}"),
                )
            })
        },
    },
    Rule {
        keys: &["train.learning_rate.floor", "train.learning_rate.peak", "model.preset"],
        broken: |run| {
            let rate = &run.train.learning_rate;
            (rate.floor > rate.peak).then(|| {
                (
                    format!("the floor {:?} lies above the peak {:?}", rate.floor, rate.peak),
                    format!("train.learning_rate.floor = {:.1e}", rate.peak / 10.0),
                )
            })
        },
    },
    Rule {
        keys: &[
            "train.learning_rate.warmup",
            "train.learning_rate.over",
            "train.stop",
            "train.learning_rate.decay",
            "train.global_batch",
            "train.sequence",
            "model.sequence",
            "model.preset",
        ],
        broken: |run| {
            let rate = &run.train.learning_rate;
            let (warmup, over) = (rate.warmup.number(), rate.over.number());
            (rate.decay != Decay::Constant && warmup >= over).then(|| {
                (
                    format!("warm-up ({}) must end before the decay does ({})", rate.warmup, rate.over),
                    format!("train.learning_rate.warmup = \"{}\"", rate.over.with_number(over / 100)),
                )
            })
        },
    },
    Rule {
        keys: &[
            "train.global_batch.step",
            "train.global_batch.start",
            "train.global_batch.end",
            "train.global_batch.over",
            "train.global_batch",
            "model.preset",
        ],
        broken: |run| broken_ramp(&run.train.global_batch),
    },
    Rule {
        keys: &["layout.micro_batch", "train.global_batch", "model.preset"],
        broken: |run| {
            let batch = &run.train.global_batch;
            let micro = run.layout.micro_batch as u64;
            let sizes =
                if batch.is_constant() { vec![batch.end] } else { vec![batch.start, batch.step, batch.end] };
            let common = sizes.iter().copied().fold(0, greatest_common_divisor);
            (broken_ramp(batch).is_none() && common % micro != 0).then(|| {
                let works = nearest_divisor(common as usize, micro as usize);
                let sizes: Vec<String> = sizes.iter().map(u64::to_string).collect();
                (
                    format!("{micro} does not divide every global batch ({})", sizes.join(", ")),
                    format!("layout.micro_batch = {works}"),
                )
            })
        },
    },
    Rule {
        keys: &["layout.tensor", "model.heads", "model.kv_heads", "model.ffn", "model.preset"],
        broken: |run| {
            let (rule, nearest) = split::refuse_tensor(&run.model, run.layout.tensor)?;
            Some((rule, format!("layout.tensor = {nearest}")))
        },
    },
    Rule {
        keys: &["layout.pipeline", "layout.chunks", "model.layers", "model.preset"],
        broken: |run| {
            let (stages, chunks) = (run.layout.pipeline, run.layout.chunks);
            let (rule, most) = split::refuse_pipeline(&run.model, stages, chunks)?;
            Some((rule, format!("layout.pipeline = {most}")))
        },
    },
    Rule {
        keys: &["layout.sequence_parallel", "layout.tensor", "layout.micro_batch", "train.sequence"],
        broken: |run| {
            let (layout, sequence) = (&run.layout, run.train.sequence);
            let (tensor, micro) = (layout.tensor, layout.micro_batch);
            let whole = micro.is_multiple_of(tensor)
                || (tensor.is_multiple_of(micro) && (micro * sequence).is_multiple_of(tensor));
            (layout.sequence_parallel && !whole).then(|| {
                (
                    format!(
                        "a micro-batch of {micro} sequences of {sequence} tokens cannot be cut into {tensor} \
                         parts of whole or within single sequences"
                    ),
                    "layout.sequence_parallel = false".to_owned(),
                )
            })
        },
    },
    Rule {
        keys: &["train.loss_scale.initial", "train.loss_scale.minimum", "train.precision", "model.preset"],
        broken: |run| {
            let scale = &run.train.loss_scale;
            let wrong = run.train.precision == Precision::F16 && scale.initial < scale.minimum;
            wrong.then(|| {
                (
                    format!(
                        "the first loss scale {:?} lies below the minimum {:?}",
                        scale.initial, scale.minimum
                    ),
                    format!("train.loss_scale.minimum = {:?}", scale.initial.min(1.0)),
                )
            })
        },
    },
    Rule {
        keys: &["train.on_spike.loss_sigma", "train.on_spike.norm_sigma"],
        broken: |run| {
            let spike = run.train.on_spike.as_ref()?;
            (spike.loss_sigma == 0.0 && spike.norm_sigma == 0.0).then(|| {
                (
                    "neither loss nor gradient norm is watched".to_owned(),
                    "train.on_spike.loss_sigma = 6.0".to_owned(),
                )
            })
        },
    },
    Rule {
        keys: &["train.on_spike.action", "checkpoint.every"],
        broken: |run| rollback_without_checkpoints(run, run.train.on_spike.as_ref()?.action),
    },
    Rule {
        keys: &["train.on_nonfinite.action", "checkpoint.every"],
        broken: |run| rollback_without_checkpoints(run, run.train.on_nonfinite.action),
    },
    Rule {
        keys: &["train.evaluate_every", "data.validation"],
        broken: |run| {
            (run.train.evaluate_every > 0 && run.data.validation.is_empty()).then(|| {
                (
                    "there is no data.validation to evaluate on".to_owned(),
                    "train.evaluate_every = 0".to_owned(),
                )
            })
        },
    },
];

fn rollback_without_checkpoints(run: &Run, action: SpikeAction) -> Option<(String, String)> {
    (action == SpikeAction::Rollback && run.checkpoint.every.number() == 0).then(|| {
        (
            "a rollback needs checkpoints, and checkpoint.every is 0".to_owned(),
            "checkpoint.every = \"500 steps\"".to_owned(),
        )
    })
}

fn broken_ramp(batch: &GlobalBatch) -> Option<(String, String)> {
    let GlobalBatch { start, step, end, over } = *batch;
    if start == end {
        None
    } else if start > end {
        Some((
            format!("the batch can only grow, but start {start} lies above end {end}"),
            format!("train.global_batch.start = {end}"),
        ))
    } else if step == 0 || (end - start) % step != 0 {
        let works = nearest_divisor((end - start) as usize, step as usize);
        Some((
            format!("from {start} to {end} in steps of {step} is no whole number of steps"),
            format!("train.global_batch.step = {works}"),
        ))
    } else if over.number() == 0 {
        let works = Amount::Samples(100 * end);
        Some((
            format!("a batch growing from {start} to {end} needs to know over what"),
            format!("train.global_batch.over = \"{works}\""),
        ))
    } else {
        None
    }
}

/// The divisor of `number` nearest to `wanted`.
fn nearest_divisor(number: usize, wanted: usize) -> usize {
    let small = (1..)
        .take_while(|divisor| divisor * divisor <= number)
        .filter(|divisor| number.is_multiple_of(*divisor));
    small
        .flat_map(|divisor| [divisor, number / divisor])
        .min_by_key(|divisor| divisor.abs_diff(wanted))
        .unwrap_or(1)
}

fn greatest_common_divisor(left: u64, right: u64) -> u64 {
    if right == 0 { left } else { greatest_common_divisor(right, left % right) }
}
