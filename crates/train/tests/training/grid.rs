//! The grid of layouts: all of one to sixteen ranks, as threads. A draw of it in the ordinary tests, the whole on
//! request: `cargo test --release --workspace --test training grid -- --ignored`.

use crate::layouts::{ONE, Place, run, train};
use triax_plan::Layout;
use triax_spec::Run;
use triax_spec::run::{Amount, GlobalBatch, NumericsMode, Recompute, ScheduleKind};
use triax_tensor::philox::Stream;
use triax_train::Resume;
use triax_train::verify::{Evidence, difference};

const MOST: usize = 16;
/// Micro-batches of a group: a steady state on two stages.
const MICRO_BATCHES: usize = 2;

/// Two steps of 32 samples, in groups of two micro-batches or, for ZeRO-2 and 3, of one.
fn run_of(tiny: &Run, zero: usize) -> Run {
    let mut run = tiny.clone();
    run.train.global_batch = GlobalBatch::constant((MOST * MICRO_BATCHES) as u64);
    run.train.stop = Amount::Steps(2);
    run.train.evaluate_every = 0;
    run.numerics.data_groups = if zero > 1 { MOST * MICRO_BATCHES } else { MOST };
    run
}

/// Every layout that the run file's rules allow and whose bits are promised.
fn places(runs: &[Run; 2]) -> Vec<Place> {
    let mut all = Vec::new();
    let schedules = [
        (ScheduleKind::OneForwardOneBackward, 1),
        (ScheduleKind::GPipe, 1),
        (ScheduleKind::ZeroBubbleH1, 1),
        (ScheduleKind::Interleaved, 2),
    ];
    let recomputes = [Recompute::None, Recompute::Selective, Recompute::Full];
    for (tensor, sequence) in
        [(1, false), (2, false), (2, true), (4, false), (4, true), (8, false), (8, true)]
    {
        for pipeline in 1..=4 {
            for data in [1, 2, 4, 8, 16].into_iter().filter(|data| tensor * pipeline * data <= MOST) {
                for zero in 0..if data > 1 { 4 } else { 1 } {
                    for (schedule, chunks) in schedules.into_iter().take(if pipeline > 1 { 4 } else { 1 }) {
                        for recompute in recomputes {
                            let axes = Place { tensor, sequence, pipeline, data, ..ONE };
                            all.push(Place { zero, schedule, chunks, recompute, ..axes });
                        }
                    }
                }
            }
        }
    }
    all.retain(|place| {
        let run = place.apply(&runs[usize::from(place.zero > 1)]);
        Run::parse("layout", &run.to_toml(), &[]).is_ok()
            && Layout::new(&run, 0).is_ok_and(|layout| layout.own_bits.is_none())
    });
    all
}

/// Compares `count` layouts of the grid with one rank, or all.
fn compare(llama: bool, count: Option<usize>) -> usize {
    let data = tempfile::tempdir().unwrap();
    let tiny = run(data.path(), llama);
    let runs = [0, 2].map(|zero| run_of(&tiny, zero));
    let mut all = places(&runs);
    if let Some(count) = count {
        let stream = Stream::named(u64::from(llama), "grid");
        let mut keyed: Vec<_> =
            all.into_iter().enumerate().map(|(i, p)| (stream.word(i as u64), p)).collect();
        keyed.sort_by_key(|(key, _)| *key);
        all = keyed.into_iter().take(count).map(|(_, place)| place).collect();
    }
    let ones: Vec<Evidence> = runs
        .iter()
        .enumerate()
        .map(|(index, run)| train(&ONE.apply(run), &data.path().join(format!("one-{index}")), Resume::Never))
        .collect();
    for place in &all {
        let kind = usize::from(place.zero > 1);
        let directory = data.path().join("other");
        let found = train(&place.apply(&runs[kind]), &directory, Resume::Never);
        if let Some(difference) = difference(&found, &ones[kind]).unwrap() {
            panic!("{place:?}: {difference}");
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
    all.len()
}

#[test]
fn layouts_drawn_from_the_grid_give_the_bits_of_one_rank() {
    assert_eq!(compare(false, Some(12)), 12);
    assert_eq!(compare(true, Some(12)), 12);
}

fn compare_all(llama: bool) {
    let begin = std::time::Instant::now();
    let count = compare(llama, None);
    println!("{count} layouts in {:.0} s", begin.elapsed().as_secs_f64());
    assert!(count > 500, "{count}");
}

#[test]
#[ignore = "minutes: every layout of up to sixteen ranks"]
fn the_whole_grid_gives_the_bits_of_one_rank_for_gpt() {
    compare_all(false);
}

#[test]
#[ignore = "minutes: every layout of up to sixteen ranks"]
fn the_whole_grid_gives_the_bits_of_one_rank_for_llama() {
    compare_all(true);
}

/// In `fast` the order of sums follows the layout. Each f32 sum of n terms may then differ by 2 (n - 1) u Σ|x|, with
/// u = 2⁻²⁴ (Higham, "Accuracy and stability of numerical algorithms", 2002, section 4.2), and may carry a value to the
/// neighbouring bf16. What is promised is the loss: within 2⁻⁸ of one rank's, a bf16 rounding, in the first steps.
#[test]
fn fast_sums_keep_the_loss_within_a_bf16_rounding() {
    for llama in [false, true] {
        let data = tempfile::tempdir().unwrap();
        let mut run = run_of(&run(data.path(), llama), 0);
        let exact = train(&ONE.apply(&run), &data.path().join(format!("exact-{llama}")), Resume::Never);
        run.numerics.mode = NumericsMode::Fast;
        let places = [
            Place { tensor: 4, sequence: true, ..ONE },
            Place { tensor: 2, pipeline: 2, data: 2, zero: 1, ..ONE },
            // Several micro-batches, summed over the replicas one by one.
            Place { data: 4, zero: 2, ..ONE },
            Place { pipeline: 2, data: 4, zero: 3, ..ONE },
            Place { pipeline: 2, data: 2, zero: 3, schedule: ScheduleKind::Interleaved, chunks: 2, ..ONE },
        ];
        for (index, place) in places.iter().enumerate() {
            let directory = data.path().join(format!("fast-{llama}-{index}"));
            let fast = train(&place.apply(&run), &directory, Resume::Never);
            assert_eq!(fast.steps().len(), 2);
            for (found, expected) in fast.steps().iter().zip(exact.steps()) {
                let (found, expected) = (found.loss, expected.loss);
                let off = (found - expected).abs() / expected;
                assert!(off <= 1.0 / 256.0, "{place:?}: {found} and {expected}");
            }
        }
    }
}
