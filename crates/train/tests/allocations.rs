//! From the end of one step to the end of the next nothing is allocated on the heap, metrics included.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod setup;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use triax_spec::run::{Amount, OnSpike, Precision, SpikeAction};
use triax_train::{Observer, Resume, Start, StepReport};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

struct Count {
    region: Region<'static, System>,
    allocations: Vec<usize>,
}

impl Observer for Count {
    fn step(&mut self, _: &StepReport) {
        let change = self.region.change();
        self.allocations.push(change.allocations + change.reallocations);
        self.region.reset();
    }
}

#[test]
fn a_step_allocates_nothing_after_warm_up() {
    let folder = tempfile::tempdir().unwrap();
    for precision in [Precision::F32, Precision::Bf16] {
        let mut run = setup::run(folder.path());
        run.train.precision = precision;
        run.train.evaluate_every = 0;
        run.checkpoint.every = Amount::Steps(0);
        run.train.on_spike = Some(OnSpike {
            loss_sigma: 9.0,
            norm_sigma: 0.0,
            window: 8,
            action: SpikeAction::Log,
            limit: 99,
        });
        run.device.threads = 2;
        let directory = folder.path().join(format!("{precision:?}"));
        let mut trainer = setup::open(&run, &directory, Start::new(Resume::Never)).unwrap();
        let mut count = Count { region: Region::new(ALLOCATOR), allocations: Vec::with_capacity(100) };
        trainer.train(&mut count).unwrap();
        assert_eq!(count.allocations.len(), 30);
        assert_eq!(count.allocations[2..], [0; 28], "{precision:?}");
    }
}
