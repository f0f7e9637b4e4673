//! Every sample of the plan is trained on once, whatever number of replicas take them and however often the run stops.

use crate::layouts::{ONE, Place, run};
use crate::setup::{self, SEQUENCE};
use crate::spy::{Orders, Spy};
use std::collections::HashMap;
use triax_data::Samples;
use triax_plan::Layout;
use triax_spec::run::Amount;
use triax_tensor::Device;
use triax_train::{Resume, Start, train_in_threads};

#[test]
fn over_three_resumes_and_two_changes_of_the_replicas_the_samples_are_those_of_the_plan() {
    let data = tempfile::tempdir().unwrap();
    let mut run = run(data.path(), false);
    run.train.evaluate_every = 0;
    let sources: Vec<_> = run.data.blend.iter().map(|s| (s.path.clone(), s.weight)).collect();
    let samples = Samples::open(&sources, SEQUENCE, run.data.seed).unwrap();
    // 8 samples, then a ramp to 16; micro-batches of one sample.
    let orders = Orders { ids: SEQUENCE, ..Orders::default() };
    let directory = data.path().join("run");
    let mut position = 0;
    for (data, zero, stop) in [(1, 0, 2), (4, 0, 3), (4, 1, 5), (2, 1, 6)] {
        let mut run = Place { data, zero, ..ONE }.apply(&run);
        run.train.stop = Amount::Steps(stop);
        let layout = Layout::new(&run, 0).unwrap();
        let device = || -> Box<dyn Device> { Box::new(Spy::new(setup::device(&run), &orders)) };
        let mut steps = setup::Steps::default();
        let resume = if position == 0 { Resume::Never } else { Resume::Must };
        let start = Start::new(resume);
        train_in_threads(&run, &layout, Default::default(), &device, &directory, &start, &mut steps).unwrap();
        position = steps.0.last().unwrap().samples;
    }
    let mut planned: HashMap<Vec<u32>, i64> = HashMap::new();
    let mut window = vec![0; SEQUENCE + 1];
    for sample in 0..position {
        samples.fill(sample, &mut window).unwrap();
        // Inputs and targets are uploaded each.
        *planned.entry(window[..SEQUENCE].to_vec()).or_default() += 1;
        *planned.entry(window[1..].to_vec()).or_default() += 1;
    }
    assert!(position > 60, "{position}");
    for ids in orders.seen.lock().unwrap().iter() {
        *planned.entry(ids.clone()).or_default() -= 1;
    }
    planned.retain(|_, left| *left != 0);
    assert!(planned.is_empty(), "windows used too seldom (positive) or too often: {planned:?}");
}
