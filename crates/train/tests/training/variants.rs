//! Runs of another mask, and a resume on another number of threads.

use crate::setup::{run, state_bits, step_bits, train, train_until};
use triax_data::prefix_length;
use triax_spec::model::Mask;
use triax_spec::run::{Amount, Precision};
use triax_train::{Resume, StepReport};

fn bits(steps: &[StepReport]) -> Vec<(u64, u64, u64, u64, u32)> {
    steps.iter().map(step_bits).collect()
}

#[test]
fn a_run_resumed_on_other_numbers_of_threads_has_the_bits_of_one_that_was_not() {
    for precision in [Precision::F32, Precision::Bf16] {
        let data = tempfile::tempdir().unwrap();
        let mut run = run(data.path());
        run.train.precision = precision;
        let (whole, steps) = train(&run, &data.path().join("whole"), Resume::Never);
        let parts = data.path().join("parts");
        let mut found = Vec::new();
        for (threads, stop) in [(3, 5), (1, 12), (2, 20)] {
            run.device.threads = threads;
            found.extend(train_until(&run, &parts, stop));
        }
        run.device.threads = 4;
        let (resumed, last) = train(&run, &parts, Resume::Must);
        found.extend(last);
        assert_eq!(bits(&found), bits(&steps), "{precision:?}");
        assert_eq!(state_bits(&resumed), state_bits(&whole), "{precision:?}");
    }
}

#[test]
fn a_prefix_mask_trains_counts_what_follows_the_prefix_and_resumes_to_the_same_bits() {
    let data = tempfile::tempdir().unwrap();
    let mut run = run(data.path());
    let (_, causal) = train(&run, &data.path().join("causal"), Resume::Never);
    run.model.mask = Mask::Prefix;
    run.model.dropout = Default::default();
    run.train.stop = Amount::Steps(120);
    run.train.learning_rate.over = Amount::Samples(700);
    let (whole, steps) = train(&run, &data.path().join("whole"), Resume::Never);
    assert!(steps[119].loss < steps[0].loss - 0.3, "{} after {}", steps[119].loss, steps[0].loss);
    assert_ne!(steps[0].loss, causal[0].loss, "the prefix is seen, and its targets do not count");
    // The samples of the first steps have prefixes that leave targets out.
    assert!((0..steps[1].samples).any(|sample| prefix_length(run.data.seed, sample, run.train.sequence) > 1));

    let parts = data.path().join("parts");
    let mut found = train_until(&run, &parts, 7);
    found.extend(train_until(&run, &parts, 50));
    let (resumed, last) = train(&run, &parts, Resume::Must);
    found.extend(last);
    assert_eq!(bits(&found), bits(&steps));
    assert_eq!(state_bits(&resumed), state_bits(&whole));
}
