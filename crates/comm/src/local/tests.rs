//! What a local world does when all goes well, and how it ends when a rank is silent, gone or confused.

use super::*;
use crate::{Group, parts, verify_same};
use std::time::Duration;
use triax_tensor::{DType, DeviceExt, View, reference::Reference};

const SHORT: Options = Options { timeout: Duration::from_millis(300) };

const fn view(offset: usize, len: usize) -> View {
    View { offset, rows: 1, cols: len, dtype: DType::F32 }
}

/// Runs a rank per thread, each with a device of 4 KiB; what each returns, in order.
fn run<R: Send>(
    ranks: usize,
    options: Options,
    rank: impl Fn(&mut LocalRank, &mut Reference) -> R + Sync,
) -> Vec<R> {
    std::thread::scope(|scope| {
        let start = |mut comm: LocalRank| {
            let rank = &rank;
            scope.spawn(move || {
                let mut device = Reference::new();
                device.allocate(4096, 0).unwrap();
                let result = rank(&mut comm, &mut device);
                // After an error this fails too.
                let _ = comm.leave();
                result
            })
        };
        let threads: Vec<_> = World::new(ranks, options).into_iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn world(comm: &LocalRank) -> Group {
    Group::world(comm.world(), comm.rank())
}

/// The one line with which every rank ended.
fn common_cause(results: Vec<Result<(), CommError>>) -> String {
    let lines: Vec<String> = results.into_iter().filter_map(Result::err).map(|e| e.to_string()).collect();
    assert!(!lines.is_empty());
    assert!(lines.iter().all(|line| *line == lines[0] && !line.contains('\n')), "{lines:#?}");
    lines[0].clone()
}

#[test]
fn an_all_reduce_is_the_sum_on_every_rank() {
    let results = run(3, SHORT, |comm, device| {
        let group = world(comm);
        device.upload_slice(view(0, 2), &[comm.rank() as f32 + 1.0, 10.0]);
        let handle = comm.all_reduce(device, &group, view(0, 2), "x").unwrap();
        comm.wait(device, handle).unwrap();
        device.download_vec::<f32>(view(0, 2))
    });
    assert_eq!(results, vec![vec![6.0, 30.0]; 3]);
}

#[test]
fn a_reduce_scatter_and_an_all_gather_in_place_are_an_all_reduce() {
    let results = run(4, SHORT, |comm, device| {
        let group = world(comm);
        let whole = view(0, 10);
        let values: Vec<f32> = (0..10).map(|i| (i * (comm.rank() + 1)) as f32).collect();
        device.upload_slice(whole, &values);
        let parts = parts(10, 4);
        let own = whole.flat_range(parts[group.index].start, parts[group.index].len());
        let handle = comm.reduce_scatter(device, &group, &parts, whole, own, "x").unwrap();
        comm.wait(device, handle).unwrap();
        let handle = comm.all_gather(device, &group, &parts, own, whole, "x").unwrap();
        comm.wait(device, handle).unwrap();
        device.download_vec::<f32>(whole)
    });
    let expected: Vec<f32> = (0..10).map(|i| (i * 10) as f32).collect();
    assert_eq!(results, vec![expected; 4]);
}

#[test]
fn neither_side_of_a_message_waits_for_the_other_to_wait() {
    let results = run(2, SHORT, |comm, device| {
        let other = 1 - comm.rank();
        device.upload_slice(view(0, 3), &[comm.rank() as f32; 3]);
        // Both send first, and wait for what they sent first.
        let sent = comm.send(device, other, view(0, 3), 7, "x").unwrap();
        let received = comm.receive(device, other, view(64, 3), 7, "x").unwrap();
        comm.wait(device, sent).unwrap();
        comm.wait(device, received).unwrap();
        device.download_vec::<f32>(view(64, 3))
    });
    assert_eq!(results, [[1.0; 3], [0.0; 3]]);
}

#[test]
fn handles_may_be_waited_for_in_different_orders() {
    let results = run(2, SHORT, |comm, device| {
        let group = world(comm);
        device.upload_slice(view(0, 20), &[1.0f32; 20]);
        let mut handles: Vec<Handle> =
            (0..5).map(|i| comm.all_reduce(device, &group, view(i * 16, 4), "x").unwrap()).collect();
        if comm.rank() == 1 {
            handles.reverse();
        }
        handles.into_iter().for_each(|handle| comm.wait(device, handle).unwrap());
        device.download_vec::<f32>(view(0, 20))
    });
    assert_eq!(results, vec![vec![2.0; 20]; 2]);
}

#[test]
fn host_values_of_any_length_come_in_order() {
    let results = run(3, SHORT, |comm, _| {
        let group = world(comm);
        comm.barrier(&group, "start").unwrap();
        comm.gather_host(&group, &vec![comm.rank() as u8; comm.rank()], "lengths").unwrap()
    });
    assert_eq!(results, vec![vec![vec![], vec![1], vec![2, 2]]; 3]);
}

#[test]
fn a_silent_rank_is_named_with_what_it_did_last() {
    let results = run(3, SHORT, |comm, _| {
        let group = world(comm);
        comm.barrier(&group, "start")?;
        if comm.rank() == 1 {
            std::thread::sleep(Duration::from_millis(900));
        }
        comm.barrier(&group, "step 1")
    });
    let line = common_cause(results);
    assert!(
        line.contains(
            "in vain in the barrier step 1 (world #1): rank 1 last finished the barrier start (world #0)"
        ),
        "{line}"
    );
    assert!(!line.contains("rank 0 last") && !line.contains("rank 2 last"), "{line}");
}

#[test]
fn the_rank_that_all_the_others_wait_for_in_the_end_is_named_first() {
    // 0 waits for 1, 1 waits for 2, 2 sleeps.
    let results = run(3, SHORT, |comm, device| {
        let rank = comm.rank();
        if rank == 2 {
            std::thread::sleep(Duration::from_millis(900));
        } else {
            let handle = comm.receive(device, rank + 1, view(0, 4), 0, "activations")?;
            comm.wait(device, handle)?;
        }
        comm.barrier(&world(comm), "end")
    });
    let line = common_cause(results);
    let culprit = line.find(": rank 2 has begun nothing").expect(&line);
    assert!(line.find("rank 1 has been waiting").is_none_or(|waiting| waiting > culprit), "{line}");
}

#[test]
fn ranks_that_call_different_things_are_both_named() {
    let results = run(2, SHORT, |comm, device| {
        let group = world(comm);
        let (len, what) = if comm.rank() == 0 { (8, "layer 1") } else { (9, "layer 2") };
        let handle = comm.all_reduce(device, &group, view(0, len), what)?;
        comm.wait(device, handle)
    });
    let line = common_cause(results);
    assert!(line.contains("all-reduce of layer 1 (8 f32, world #0)"), "{line}");
    assert!(line.contains("all-reduce of layer 2 (9 f32, world #0)"), "{line}");
}

#[test]
fn a_rank_that_drops_out_ends_the_others_at_once() {
    let began = Instant::now();
    let mut ranks = World::new(4, Options::default());
    drop(ranks.pop());
    let group = Group::world(4, 0);
    let line = ranks[0].barrier(&group, "start").unwrap_err().to_string();
    assert_eq!(line.find("a rank ended early: rank 3 has begun nothing"), Some(0), "{line}");
    let sleepers = run(2, Options::default(), |comm, _| {
        if comm.rank() == 1 {
            std::thread::sleep(Duration::from_millis(50));
            return Err(comm.abort("no more\ndata"));
        }
        comm.barrier(&Group::world(2, 0), "start")
    });
    assert_eq!(common_cause(sleepers), "rank 1 gave up: no more data");
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_rank_that_has_left_is_not_waited_for() {
    let results = run(2, Options::default(), |comm, _| {
        if comm.rank() == 1 { Ok(()) } else { comm.barrier(&world(comm), "one more") }
    });
    let line = common_cause(results);
    assert!(line.contains("rank 0 can never finish the barrier one more (world #0): rank 1 left"), "{line}");
}

#[test]
fn wrong_operands_are_refused_with_the_call() {
    let results = run(1, SHORT, |comm, device| {
        let group = world(comm);
        let ids = View { dtype: DType::U32, ..view(0, 4) };
        comm.all_reduce(device, &group, ids, "ids").map(drop)
    });
    assert_eq!(
        common_cause(results),
        "rank 0, all-reduce of ids (4 u32, world #0): sums are made in f32, not u32"
    );
}

#[test]
fn ranks_started_differently_find_out() {
    let results = run(3, SHORT, |comm, _| {
        let hash = if comm.rank() == 1 { "bb" } else { "aa" };
        verify_same(comm, &[("binary", "1.0"), ("run file", hash)])
    });
    assert_eq!(results.len(), 3);
    let line = common_cause(results);
    assert_eq!(line, "ranks were started differently: run file: 2 of 3 have aa, rank 1 bb");
}

#[test]
fn many_ranks_on_few_cores_get_through() {
    let results = run(150, Options::default(), |comm, device| {
        let group = world(comm);
        device.upload_slice(view(0, 300), &[1.0f32; 300]);
        for _ in 0..3 {
            let handle = comm.all_reduce(device, &group, view(0, 300), "x").unwrap();
            comm.wait(device, handle).unwrap();
            device.scale(view(0, 300), 1.0 / 150.0);
        }
        device.download_vec::<f32>(view(0, 300))
    });
    assert!(results.iter().flatten().all(|x| (x - 1.0).abs() < 1e-6));
}
