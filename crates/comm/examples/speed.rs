//! Speed of the local engine: all-reduce, all-gather and messages of large buffers and the latency of small
//! ones, against `memcpy` of one thread and of all. Run it on a quiet machine:
//! `cargo run --release -p triax-comm --example speed`.

use std::time::{Duration, Instant};

use triax_comm::local::{LocalRank, Options, World};
use triax_comm::{Collective as _, Group, parts};
use triax_tensor::{DType, Device as _, DeviceExt as _, View, cpu::Cpu, cpu::Kernel};

const BYTES: usize = 50_000_000;
const REPEATS: usize = 20;

fn main() {
    let alone = copy_rate(1);
    let together = copy_rate(2);
    println!(
        "memcpy of {} MB: 1 thread {alone:.1} GB/s, 2 threads {together:.1} GB/s in all",
        BYTES / 1_000_000
    );
    println!(
        "(GB/s of all memory read and written; a buffer that is summed from 2 and written to 2 counts 4 times)"
    );
    for (name, passes, operation) in [
        ("all-reduce", 4.0, all_reduce as Operation),
        ("reduce-scatter in place", 3.0, reduce_scatter),
        ("all-gather in place", 2.0, all_gather),
        ("message each way", 4.0, exchange),
    ] {
        let seconds = measure(BYTES / 4, REPEATS, operation);
        println!("{name:>24}: {:6.2} ms, {:5.1} GB/s", seconds * 1e3, passes * BYTES as f64 / seconds / 1e9);
    }
    for len in [1, 1024, 64 << 10, 768 << 10] {
        let seconds = measure(len, 2000, all_reduce);
        println!("all-reduce of {:>7} bytes: {:8.1} µs", 4 * len, seconds * 1e6);
    }
}

type Operation = fn(&mut LocalRank, &mut Cpu, &Group, usize);

/// Seconds of one operation, the best of five series, two ranks of one thread each.
fn measure(len: usize, repeats: usize, operation: Operation) -> f64 {
    let times: Vec<Vec<Duration>> = std::thread::scope(|scope| {
        let start = |mut comm: LocalRank| {
            scope.spawn(move || {
                let group = Group::world(2, comm.rank());
                let mut device = Cpu::new(1, Kernel::Auto).expect("any machine has some kernel");
                device.allocate(8 * len + 64, 0).expect("memory for two buffers");
                device.upload_slice(view(0, 2 * len), &vec![1e-30f32; 2 * len]);
                let series = (0..5).map(|_| {
                    comm.barrier(&group, "start").expect("all ranks are there");
                    let start = Instant::now();
                    (0..repeats).for_each(|_| operation(&mut comm, &mut device, &group, len));
                    start.elapsed() / repeats as u32
                });
                let series = series.collect();
                comm.leave().expect("nothing is under way");
                series
            })
        };
        let threads: Vec<_> = World::new(2, Options::default()).into_iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("no rank panics")).collect()
    });
    let slower = times[0].iter().zip(&times[1]).map(|(a, b)| a.max(b));
    slower.min().expect("five series").as_secs_f64()
}

fn all_reduce(comm: &mut LocalRank, device: &mut Cpu, group: &Group, len: usize) {
    let handle = comm.all_reduce(device, group, view(0, len), "x").expect("it begins");
    comm.wait(device, handle).expect("it ends");
}

fn reduce_scatter(comm: &mut LocalRank, device: &mut Cpu, group: &Group, len: usize) {
    let parts = parts(len, 2);
    let own = view(0, len).flat_range(parts[group.index].start, parts[group.index].len());
    let handle = comm.reduce_scatter(device, group, &parts, view(0, len), own, "x").expect("it begins");
    comm.wait(device, handle).expect("it ends");
}

fn all_gather(comm: &mut LocalRank, device: &mut Cpu, group: &Group, len: usize) {
    let parts = parts(len, 2);
    let own = view(0, len).flat_range(parts[group.index].start, parts[group.index].len());
    let handle = comm.all_gather(device, group, &parts, own, view(0, len), "x").expect("it begins");
    comm.wait(device, handle).expect("it ends");
}

fn exchange(comm: &mut LocalRank, device: &mut Cpu, group: &Group, len: usize) {
    let other = 1 - group.index;
    let sent = comm.send(device, other, view(0, len), 0, "x").expect("it begins");
    let received = comm.receive(device, other, view(4 * len, len), 0, "x").expect("it begins");
    comm.wait(device, sent).expect("it ends");
    comm.wait(device, received).expect("it ends");
}

const fn view(offset: usize, len: usize) -> View {
    View { offset, rows: 1, cols: len, dtype: DType::F32 }
}

/// GB/s read and written by `threads` that each copy their own buffers.
fn copy_rate(threads: usize) -> f64 {
    let rates: Vec<f64> = std::thread::scope(|scope| {
        let copy = || {
            let (from, mut to) = (vec![1u8; BYTES], vec![2u8; BYTES]);
            let mut best = Duration::MAX;
            for _ in 0..5 {
                let start = Instant::now();
                for _ in 0..REPEATS {
                    std::hint::black_box(&mut to).copy_from_slice(std::hint::black_box(&from));
                }
                best = best.min(start.elapsed());
            }
            (2 * BYTES * REPEATS) as f64 / best.as_secs_f64() / 1e9
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(copy)).collect();
        threads.into_iter().map(|thread| thread.join().expect("copying does not panic")).collect()
    });
    rates.iter().sum()
}
