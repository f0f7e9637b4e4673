//! `triax verify layouts`: a tiny model is trained in several layouts, as threads, and every bit is compared with one
//! rank's. `triax verify checkpoint`: every size, name and hash.

use crate::arguments::VerifyLayouts;
use crate::console::{bytes, json_line};
use crate::failure::{Context, Failure, with_causes};
use crate::layout::{parse, show};
use crate::source;
use serde_json::json;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;
use triax_data::{TokenType, Writer};
use triax_plan::Layout as Planned;
use triax_spec::Run;
use triax_spec::model::{Activation, NormKind, Positions};
use triax_spec::presets;
use triax_spec::run::{
    Amount, Checkpoint, Data, GlobalBatch, Layout, NumericsMode, Recompute, ScheduleKind, Source,
};
use triax_tensor::cpu::{Cpu, Kernel};
use triax_tensor::philox::Stream;
use triax_train::verify::{Evidence, Witness, difference};
use triax_train::{Resume, Start, TrainError, train_in_threads};

/// Micro-batches of each group: enough for every schedule's steady state on a few stages.
const MICRO_BATCHES: u64 = 4;

pub(crate) fn layouts(arguments: &VerifyLayouts) -> Result<(), Failure> {
    let scratch =
        tempfile::tempdir().map_err(|error| Failure::run(format!("no temporary folder: {error}")))?;
    let given = arguments.layout.iter().map(|text| parse(text, 1)).collect::<Result<Vec<_>, _>>()?;
    let groups = groups(arguments, &given);
    let run = run_of(arguments, groups, scratch.path())?;
    let layouts = if given.is_empty() { drawn(&run, arguments) } else { given };
    // By their groups: layouts that sum every micro-batch over the replicas have as many as micro-batches.
    let mut ones: BTreeMap<usize, Evidence> = BTreeMap::new();
    for layout in &layouts {
        let mut one = laid_out(&run, layout);
        one.layout = Layout::single(1);
        let groups = one.numerics.data_groups;
        if let Entry::Vacant(place) = ones.entry(groups) {
            let folder = scratch.path().join(format!("one-{groups}"));
            let found = train(&one, &folder);
            place.insert(found.map_err(|error| Failure::run(format!("one rank: {}", with_causes(&error))))?);
        }
    }
    eprintln!(
        "{} layouts of up to {} ranks against one rank, {} steps, batch {} in {groups} groups",
        layouts.len(),
        arguments.world,
        arguments.steps,
        run.train.global_batch.end
    );
    let mut different = 0;
    for (index, layout) in layouts.iter().enumerate() {
        let other = laid_out(&run, layout);
        let planned =
            Planned::new(&other, 0).map_err(|error| Failure::usage(format!("{}: {error}", show(layout))))?;
        let folder = scratch.path().join(format!("layout-{index}"));
        let found = train(&other, &folder);
        let outcome = match found {
            Ok(found) => difference(&found, &ones[&other.numerics.data_groups])
                .context(|| show(layout))?
                .map_or_else(|| "equal".to_owned(), |difference| difference.to_string()),
            Err(error) => with_causes(&error),
        };
        // The temporary folder as a whole goes at the end; this only keeps it small meanwhile.
        let _ = std::fs::remove_dir_all(&folder);
        let equal = outcome == "equal";
        different += usize::from(!equal && planned.own_bits.is_none());
        let note = match &planned.own_bits {
            Some(reason) => format!(" ({reason}: equal bits are not promised)"),
            None => String::new(),
        };
        eprintln!("{:<70} {outcome}{note}", show(layout));
        if arguments.json {
            json_line(&json!({
                "layout": show(layout),
                "world": planned.world(),
                "equal": equal,
                "promised": planned.own_bits.is_none(),
                "difference": (!equal).then_some(outcome),
            }))?;
        }
    }
    match different {
        0 => Ok(()),
        1 => Err(Failure::run("one layout differs from one rank")),
        more => Err(Failure::run(format!("{more} layouts differ from one rank"))),
    }
}

/// The run in a layout. ZeRO-2 and 3 share the bits of one rank where a group is one micro-batch.
fn laid_out(run: &Run, layout: &Layout) -> Run {
    let mut run = run.clone();
    run.layout = *layout;
    if layout.zero > 1 && layout.data > 1 {
        run.numerics.data_groups *= MICRO_BATCHES as usize;
    }
    run
}

/// Groups that every layout of the draw can share.
fn groups(arguments: &VerifyLayouts, given: &[Layout]) -> usize {
    let most = given.iter().map(|layout| layout.data).max().unwrap_or(arguments.world.min(8));
    let odd = given.iter().map(|layout| layout.data >> layout.data.trailing_zeros()).find(|odd| *odd > 1);
    match odd {
        // Layouts with another odd part share no tree with this one; they are told so one by one.
        Some(odd) => odd * most.div_ceil(odd).next_power_of_two(),
        None => most.next_power_of_two(),
    }
}

/// A tiny run of the asked-for shape on random text, on one rank.
fn run_of(arguments: &VerifyLayouts, groups: usize, folder: &Path) -> Result<Run, Failure> {
    let name = if arguments.llama { "tiny-llama" } else { "tiny-gpt" };
    let preset = presets::find(name).expect("the tiny presets are built in");
    let VerifyLayouts { layers, heads, hidden, vocab, seq, seed, .. } = *arguments;
    if [layers, heads, hidden, vocab, seq].contains(&0) || hidden < heads || arguments.steps == 0 {
        return Err(Failure::usage(
            "--layers, --heads, --hidden, --vocab, --seq and --steps must be at least 1, and --hidden at least --heads",
        ));
    }
    let mut model = preset.model.clone();
    (model.layers, model.heads, model.hidden, model.vocab, model.sequence) =
        (layers, heads, hidden, vocab, seq);
    model.head_dim = (hidden / heads).max(1);
    model.kv_heads = heads;
    model.ffn = 4 * hidden;
    if arguments.llama {
        model.head_dim = model.head_dim.next_multiple_of(2);
        model.kv_heads = if heads.is_multiple_of(2) { heads / 2 } else { heads };
        model.ffn = 3 * hidden;
        debug_assert_eq!((model.norm, model.activation), (NormKind::Rms, Activation::Swiglu));
        debug_assert!(matches!(model.positions, Positions::Rotary { .. }));
    } else {
        let all = 0.1;
        model.dropout = triax_spec::model::Dropout { embedding: all, attention: all, hidden: all };
    }
    let tokens = folder.join("tokens");
    let written = || {
        let mut writer = Writer::create(&tokens, TokenType::I32, None)?;
        let stream = Stream::named(seed, "text");
        let id = |index: u64| ((u64::from(stream.word(index)) * vocab as u64) >> 32) as u32;
        for document in 0..64u64 {
            let length = 5 * seq as u64 + u64::from(stream.word(1 << 40 | document)) % (3 * seq as u64);
            let ids: Vec<u32> = (0..length).map(|i| id(document << 20 | i)).collect();
            writer.push_document(&ids)?;
        }
        writer.finish().map(drop)
    };
    written().context(|| "cannot write the text".to_owned())?;
    let mut train = preset.recipe.train(&model);
    train.precision = arguments.dtype;
    train.sequence = seq;
    train.seed = seed;
    train.global_batch = GlobalBatch::constant(groups as u64 * MICRO_BATCHES);
    train.stop = Amount::Steps(arguments.steps);
    train.evaluate_every = arguments.steps;
    train.evaluate_samples = 5;
    let source = Source { path: tokens, weight: 1.0 };
    let run = Run {
        model,
        data: Data { blend: vec![source.clone()], validation: vec![source], seed },
        train,
        layout: Layout::single(1),
        checkpoint: Checkpoint { every: Amount::Steps(0), keep: 0 },
        numerics: triax_spec::run::Numerics {
            mode: NumericsMode::Exact,
            tensor_shards: 8,
            data_groups: groups,
        },
        device: triax_spec::run::Device {
            kind: triax_spec::run::DeviceKind::Cpu,
            threads: 1,
            kernel: triax_spec::run::Kernel::Auto,
        },
    };
    Ok(run)
}

fn train(run: &Run, folder: &Path) -> Result<Evidence, TrainError> {
    let layout = Planned::new(run, 0)?;
    let device = || -> Box<dyn triax_tensor::Device> {
        Box::new(Cpu::new(1, Kernel::Auto).expect("the automatic kernel runs on every machine"))
    };
    let mut witness = Witness::default();
    let start = Start::new(Resume::Never);
    train_in_threads(run, &layout, Default::default(), &device, folder, &start, &mut witness)?;
    witness.evidence(folder)
}

/// All layouts of up to `--world` ranks whose bits are promised, or a draw of them.
fn drawn(run: &Run, arguments: &VerifyLayouts) -> Vec<Layout> {
    let sizes = || (1..=arguments.world).filter(|size| size.is_power_of_two());
    let mut all = Vec::new();
    for tensor in sizes() {
        for pipeline in 1..=run.model.layers {
            for data in sizes().filter(|data| tensor * pipeline * data <= arguments.world) {
                for (schedule, chunks) in schedules(pipeline) {
                    for recompute in [Recompute::None, Recompute::Selective, Recompute::Full] {
                        for zero in 0..4 {
                            for sequence_parallel in [false, true] {
                                all.push(Layout {
                                    recompute,
                                    tensor,
                                    pipeline,
                                    data,
                                    sequence_parallel,
                                    schedule,
                                    chunks,
                                    zero,
                                    ..Layout::single(1)
                                });
                            }
                        }
                    }
                }
            }
        }
    }
    all.retain(|layout| {
        let meaningful =
            (layout.tensor > 1 || !layout.sequence_parallel) && (layout.data > 1 || layout.zero == 0);
        let other = laid_out(run, layout);
        // What the run file's own rules refuse.
        let valid = Run::parse("layout", &other.to_toml(), &[]).is_ok();
        meaningful && valid && Planned::new(&other, 0).is_ok_and(|planned| planned.own_bits.is_none())
    });
    if arguments.sample == 0 || arguments.sample >= all.len() {
        return all;
    }
    let stream = Stream::named(arguments.seed, "layouts");
    let mut keyed: Vec<(u32, Layout)> =
        all.into_iter().enumerate().map(|(index, layout)| (stream.word(index as u64), layout)).collect();
    keyed.sort_by_key(|(key, _)| *key);
    keyed.into_iter().take(arguments.sample).map(|(_, layout)| layout).collect()
}

fn schedules(pipeline: usize) -> Vec<(ScheduleKind, usize)> {
    if pipeline == 1 {
        return vec![(ScheduleKind::OneForwardOneBackward, 1)];
    }
    vec![
        (ScheduleKind::GPipe, 1),
        (ScheduleKind::OneForwardOneBackward, 1),
        (ScheduleKind::ZeroBubbleH1, 1),
        (ScheduleKind::Interleaved, 2),
    ]
}

pub(crate) fn checkpoint(folder: &Path, json: bool) -> Result<(), Failure> {
    let folder = source::newest_checkpoint(folder)?;
    let manifest =
        triax_train::checkpoint::verify(&folder).map_err(|error| Failure::run(error.to_string()))?;
    let size: u64 = manifest.files.iter().map(|file| file.bytes).sum();
    let step = manifest.state.progress.step;
    eprintln!(
        "{}: step {step}, {} tensors in {} files, {}: every size, name and hash is right",
        folder.display(),
        manifest.tensors.len(),
        manifest.files.len(),
        bytes(size as usize)
    );
    if json {
        return json_line(&json!({
            "folder": folder, "step": step, "tensors": manifest.tensors.len(), "files": manifest.files.len(),
            "bytes": size, "whole": true,
        }));
    }
    Ok(())
}
