//! Random programs of overlapping collectives on worlds of 1 to 8 threads, against the oracle.

#[path = "script/mod.rs"]
mod script;

use std::time::Duration;

use proptest::prelude::*;
use script::Random;
use triax_comm::Collective as _;
use triax_comm::local::{Options, World};

fn check(world: usize, rounds: usize, seed: u64) {
    let program = &script::program(world, rounds, seed);
    let options = Options { timeout: Duration::from_secs(60) };
    let results: Vec<_> = std::thread::scope(|scope| {
        let start = |mut comm: triax_comm::local::LocalRank| {
            scope.spawn(move || {
                let order = &mut Random::new(seed ^ comm.rank() as u64);
                let found = script::run(&mut comm, program, seed, order);
                let _ = comm.leave();
                found
            })
        };
        let threads: Vec<_> = World::new(world, options).into_iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("no rank panics")).collect()
    });
    let expected = script::oracle(world, program, seed);
    for (rank, found) in results.into_iter().enumerate() {
        let found = found.unwrap_or_else(|error| panic!("{error}\n{program:#?}"));
        if let Some(difference) = script::difference(rank, &found, &expected) {
            panic!("{difference}\n{program:#?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn any_program_leaves_the_oracle_s_bits(world in 1usize..9, rounds in 1usize..8, seed: u64) {
        check(world, rounds, seed);
    }
}
