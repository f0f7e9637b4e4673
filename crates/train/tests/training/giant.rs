//! MT-NLG's replica in one process: 105 layers with 128 heads on tensor 8 × pipeline 35 = 280 ranks, as threads, each
//! of tiny width. On request: `cargo test --release --workspace --test training giant -- --ignored --nocapture`.

use crate::layouts::{ONE, Place, run, train};
use std::time::Instant;
use triax_plan::Layout;
use triax_spec::run::{Amount, GlobalBatch};
use triax_train::Resume;
use triax_train::verify::difference;

#[test]
#[ignore = "280 threads; measured by hand"]
fn mt_nlgs_replica_starts_trains_saves_and_goes_on_as_one_rank_with_the_same_bits() {
    let data = tempfile::tempdir().unwrap();
    let mut run = run(data.path(), false);
    let model = &mut run.model;
    (model.layers, model.hidden, model.heads, model.kv_heads, model.head_dim, model.ffn) =
        (105, 128, 128, 128, 1, 512);
    run.train.global_batch = GlobalBatch::constant(4);
    run.train.evaluate_every = 0;
    run.numerics.data_groups = 1;
    run.train.stop = Amount::Steps(3);
    let giant = Place { tensor: 8, pipeline: 35, ..ONE }.apply(&run);
    let layout = Layout::new(&giant, 0).unwrap();
    assert_eq!((layout.world(), layout.own_bits), (280, None));
    let directory = data.path().join("giant");
    let begin = Instant::now();
    let on_280 = train(&giant, &directory, Resume::Never);
    let trained = begin.elapsed();
    run.train.stop = Amount::Steps(4);
    let resumed = train(&ONE.apply(&run), &directory, Resume::Must);
    let all = begin.elapsed();
    run.train.stop = Amount::Steps(3);
    let one = train(&ONE.apply(&run), &data.path().join("one"), Resume::Never);
    assert!(difference(&on_280, &one).unwrap().is_none());
    run.train.stop = Amount::Steps(4);
    let one = train(&ONE.apply(&run), &data.path().join("one"), Resume::Must);
    assert!(difference(&resumed, &one).unwrap().is_none());
    println!(
        "280 ranks: start, 3 steps and a save in {:.1} s; with a step of one rank that goes on from it {:.1} s",
        trained.as_secs_f64(),
        all.as_secs_f64()
    );
}
