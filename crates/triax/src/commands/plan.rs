//! `triax plan`: the layout, the stages, the schedule and each rank's memory of a run, from the run file alone.

use crate::arguments::Plan as Arguments;
use crate::console::{bytes, count, json_line};
use crate::failure::{Failure, with_causes};
use crate::machine;
use serde_json::json;
use triax_comm::{Axis, Mesh};
use triax_plan::{Costs, Layout, Schedule, simulate};
use triax_spec::Run;
use triax_tensor::Class;
use triax_train::Plan;

/// Worlds up to this size are shown rank by rank.
const SHOWN_RANKS: usize = 64;
/// Longest schedule that is worked through for its bubble: actions of one stage.
const SIMULATED: usize = 200_000;

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let run = Run::load(&arguments.run, &arguments.overrides)
        .map_err(|errors| Failure::usage(errors.to_string()))?;
    let layout = layout_of(&run, arguments.world)?;
    let device = machine::device(machine::selected(&run))?;
    let plan = |rank: usize| {
        Plan::of_rank(&run, &layout, rank, &*device).map_err(|error| Failure::usage(with_causes(&error)))
    };
    let world = mesh(&layout, 0);
    if let Some(rank) = arguments.rank {
        if rank >= layout.world() {
            return Err(Failure::usage(format!("there is no rank {rank} in a world of {}", layout.world())));
        }
        let plan = plan(rank)?;
        if arguments.json {
            return json_line(&plan.to_value());
        }
        print!("{}", plan.detail());
        eprint!("{plan}");
        return Ok(());
    }
    // The ranks of a stage differ by rows of the vocabulary and of a replica's part at most; the first has no fewer.
    let stages = (0..layout.pipeline)
        .map(|stage| plan(world.at(Axis::Pipeline, stage)))
        .collect::<Result<Vec<_>, _>>()?;
    let largest = stages.iter().map(Plan::total_bytes).max().unwrap_or(0);
    let micro_batches = layout.micro_batches(run.train.global_batch.end);
    let bubble = bubble(&layout, micro_batches)?;
    if arguments.json {
        json_line(&json!({
            "world": layout.world(),
            "tensor": layout.tensor,
            "pipeline": layout.pipeline,
            "data": layout.data,
            "sequence_parallel": layout.sequence_parallel,
            "zero": layout.zero,
            "schedule": layout.schedule.name(),
            "chunks": layout.chunks,
            "micro_batch": layout.micro_batch,
            "micro_batches": micro_batches * layout.groups(),
            "data_groups": layout.data_groups,
            "tensor_shards": layout.tensor_shards,
            "same_bits": layout.own_bits.is_none(),
            "own_bits": layout.own_bits,
            "parameters": triax_spec::parameters(&run.model),
            "bubble": bubble,
            "largest_rank_bytes": largest,
            "stages": stages.iter().map(stage_json).collect::<Vec<_>>(),
        }))?;
    } else {
        let parameters = count(triax_spec::parameters(&run.model) as f64);
        println!("{parameters} parameters on {layout}");
        if layout.world() > 1 && layout.world() <= SHOWN_RANKS {
            print!("{world}");
        }
        if layout.pipeline > 1 {
            let bubble = bubble
                .map_or(String::new(), |bubble| format!(", bubble {:.1} % of the work", 100.0 * bubble));
            println!("{} micro-batches a step and replica{bubble}", micro_batches * layout.groups());
        }
        println!();
        print!("{}", table(&stages));
    }
    match arguments.memory {
        Some(gib) if largest as f64 > gib * f64::from(1 << 30) => {
            Err(too_large(largest, (gib * f64::from(1 << 30)) as usize))
        }
        _ => Ok(()),
    }
}

/// The layout of a run, or what would work.
pub(crate) fn layout_of(run: &Run, world: usize) -> Result<Layout, Failure> {
    Layout::new(run, world).map_err(|error| Failure::usage(error.to_string()))
}

fn mesh(layout: &Layout, rank: usize) -> Mesh {
    let Layout { tensor, data, pipeline, .. } = *layout;
    Mesh::new(triax_comm::Layout { tensor, data, pipeline }, rank)
}

fn too_large(needed: usize, available: usize) -> Failure {
    Failure::usage(format!(
        "a rank needs {}, {} more than the {} it may take",
        bytes(needed),
        bytes(needed - available),
        bytes(available)
    ))
    .help("larger layout.tensor, layout.pipeline or layout.zero, layout.recompute = \"full\" or a smaller micro_batch need less")
}

/// Idle time of the stage that has most, over the time it computes; none for a schedule too long to work through.
fn bubble(layout: &Layout, micro_batches: usize) -> Result<Option<f64>, Failure> {
    if layout.pipeline * micro_batches * layout.chunks > SIMULATED {
        return Ok(None);
    }
    let schedule = Schedule::new(layout.schedule, layout.pipeline, layout.chunks, micro_batches)
        .map_err(|error| Failure::usage(error.to_string()))?;
    let costs = Costs { forward: 1.0, backward_input: 1.0, backward_weight: 1.0, transfer: 0.0 };
    let timeline = simulate(&schedule, costs).map_err(|stuck| Failure::run(stuck.to_string()))?;
    let work = 3.0 * (micro_batches * layout.chunks) as f64;
    Ok(Some(timeline.bubble() / work))
}

fn stage_json(plan: &Plan) -> serde_json::Value {
    let classes: serde_json::Map<String, serde_json::Value> =
        plan.rows().map(|(name, bytes)| (name.to_owned(), json!(bytes))).collect();
    json!({
        "stage": plan.mesh().coordinate(Axis::Pipeline),
        "layers": plan.stage().chunks.iter().map(|c| [c.start, c.end]).collect::<Vec<_>>(),
        "bytes": plan.total_bytes(),
        "arena_bytes": plan.table().bytes(),
        "memory": classes,
    })
}

/// A line for each stage; runs of equal stages are one line.
fn table(stages: &[Plan]) -> String {
    let mut text = format!("{:<10} {:<16}", "stage", "layers");
    for class in Class::ALL {
        text.push_str(&format!(" {:>15}", class.name()));
    }
    text.push_str(&format!(" {:>10} {:>15} {:>12}\n", "scratch", "checkpoint copy", "a rank"));
    let sizes = |plan: &Plan| plan.rows().map(|(_, bytes)| bytes).collect::<Vec<_>>();
    let mut first = 0;
    while first < stages.len() {
        let same = stages[first..].iter().take_while(|plan| sizes(plan) == sizes(&stages[first])).count();
        let last = first + same - 1;
        let name = if same == 1 { first.to_string() } else { format!("{first}-{last}") };
        let layers = |plan: &Plan| {
            let runs = plan.stage().chunks.iter().map(|c| format!("{}-{}", c.start, c.end - 1));
            runs.collect::<Vec<_>>().join(" ")
        };
        let shown =
            if same == 1 { layers(&stages[first]) } else { format!("{} …", layers(&stages[first])) };
        text.push_str(&format!("{name:<10} {shown:<16}"));
        for (index, size) in sizes(&stages[first]).into_iter().enumerate() {
            let width = [15, 15, 15, 15, 15, 15, 10, 15][index.min(7)];
            text.push_str(&format!(" {:>width$}", bytes(size)));
        }
        text.push_str(&format!(" {:>12}\n", bytes(stages[first].total_bytes())));
        first = last + 1;
    }
    text
}
