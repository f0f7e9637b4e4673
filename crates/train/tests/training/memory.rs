//! What is allocated is what the plan says, to the byte, and what ZeRO saves is in it.

use crate::layouts::{AXES, ONE, Place, SHARED_OUT, run, run_in_small_groups};
use crate::setup;
use crate::spy::{Orders, Spy};
use std::path::Path;
use triax_plan::Layout;
use triax_spec::Run;
use triax_spec::run::Amount;
use triax_tensor::{Class, Device, Table};
use triax_train::{Plan, Resume, Start, train_in_threads};

fn plans(run: &Run) -> Vec<Plan> {
    let layout = Layout::new(run, 0).unwrap();
    let device = setup::device(run);
    (0..layout.world()).map(|rank| Plan::of_rank(run, &layout, rank, &*device).unwrap()).collect()
}

#[test]
fn every_ranks_arena_is_its_table_to_the_byte_in_every_layout() {
    type Make = fn(&Path, bool) -> Run;
    let grids: [(Make, &[Place]); 2] = [(run, &AXES), (run_in_small_groups, &SHARED_OUT)];
    for (make, places) in grids {
        for (index, place) in places.iter().enumerate() {
            let data = tempfile::tempdir().unwrap();
            let mut run = place.apply(&make(data.path(), index % 2 == 1));
            run.train.stop = Amount::Steps(1);
            let orders = Orders::default();
            let device = || -> Box<dyn Device> { Box::new(Spy::new(setup::device(&run), &orders)) };
            let layout = Layout::new(&run, 0).unwrap();
            let directory = data.path().join("run");
            let start = Start::new(Resume::Never);
            train_in_threads(&run, &layout, Default::default(), &device, &directory, &start, &mut ())
                .unwrap();
            let mut allocated = orders.allocated.lock().unwrap().clone();
            let mut planned: Vec<(usize, usize)> = Vec::new();
            for plan in plans(&run) {
                let table = plan.table();
                let buffers: usize =
                    table.entries().iter().map(|e| e.bytes.next_multiple_of(Table::ALIGNMENT)).sum();
                assert_eq!(buffers, table.bytes(), "{place:?}: named buffers, one behind the other");
                planned.push((table.bytes(), plan.scratch_bytes()));
            }
            allocated.sort_unstable();
            planned.sort_unstable();
            assert_eq!(allocated, planned, "{place:?}");
        }
    }
}

/// Bytes of the layers' buffers of a class on the first rank, with `suffix` behind the parameter's name.
fn of_layers(plan: &Plan, class: Class) -> usize {
    let layers =
        |e: &&triax_tensor::Entry| e.class == class && e.name.contains("layer") && !e.name.contains(".sums");
    plan.table().entries().iter().filter(layers).map(|e| e.bytes).sum()
}

#[test]
fn shared_out_gradients_and_weights_leave_a_replica_its_part_and_two_layers() {
    let data = tempfile::tempdir().unwrap();
    let mut run = run_in_small_groups(data.path(), false);
    (run.model.layers, run.model.hidden, run.model.ffn) = (24, 64, 256);
    let with = |zero| {
        let run = Place { data: 8, zero, ..ONE }.apply(&run);
        plans(&run).remove(0)
    };
    let [whole, one, two, three] = [0, 1, 2, 3].map(with);
    let gradients = of_layers(&whole, Class::Gradients);
    let layer = gradients / 24;
    assert_eq!(of_layers(&one, Class::Gradients), gradients);
    // An eighth, cut between rows, and the layers that are being summed.
    let part = gradients / 8;
    let kept = of_layers(&two, Class::Gradients) - 2 * layer;
    assert!(kept.abs_diff(part) < gradients / 100, "{kept} instead of {part}");
    assert_eq!(of_layers(&three, Class::Gradients), of_layers(&two, Class::Gradients));
    assert_eq!(of_layers(&two, Class::Weights), of_layers(&whole, Class::Weights));
    let kept = of_layers(&three, Class::Weights) - 2 * layer;
    assert!(kept.abs_diff(part) < gradients / 100, "{kept} instead of {part}");
    // Working copies: one layer's instead of all.
    let copies = |plan: &Plan| of_layers(plan, Class::PackedWeights);
    assert!(copies(&three) * 20 < copies(&two), "{} of {}", copies(&three), copies(&two));
    let moments = of_layers(&one, Class::Optimizer);
    assert!(moments * 7 < of_layers(&whole, Class::Optimizer));
    assert_eq!(of_layers(&three, Class::Optimizer), moments);
}
