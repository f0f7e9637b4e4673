//! Random programs of collectives that every rank of a world runs, and an oracle that says what must be in
//! every rank's memory afterwards, bit for bit. One seed gives the same program on every engine.

use std::ops::Range;

use triax_comm::{Collective, CommError, Group, Handle};
use triax_tensor::{DType, Device, DeviceExt, View, cpu::Cpu, cpu::Kernel};

/// Buffers of each rank.
const SLOTS: usize = 6;
/// Floats of a buffer; more than one task of a local transfer or segment of an MPI one.
pub(crate) const SLOT: usize = 150_000;

/// The state of a world: floats by rank and slot.
type Memory = Vec<Vec<Vec<f32>>>;

/// A small generator (SplitMix64): the programs must not depend on the version of a crate.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// Numbers whose sums depend on the order.
    fn float(&mut self) -> f32 {
        let exponent = self.below(12) as i32 - 6;
        (self.below(2_000_001) as f32 - 1_000_000.0) * 2f32.powi(exponent)
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    AllReduce { ranks: Vec<usize>, slot: usize, len: usize },
    ReduceScatter { ranks: Vec<usize>, parts: Vec<Range<usize>>, from: usize, to: Option<usize>, len: usize },
    AllGather { ranks: Vec<usize>, parts: Vec<Range<usize>>, from: Option<usize>, to: usize, len: usize },
    Broadcast { ranks: Vec<usize>, root: usize, slot: usize, len: usize },
    Message { from: usize, to: usize, source: usize, target: usize, len: usize, tag: u64 },
    Barrier { ranks: Vec<usize> },
    GatherHost { ranks: Vec<usize> },
}

/// Steps that are begun together, on different slots, and waited for in any order.
pub(crate) type Program = Vec<Vec<Step>>;

pub(crate) fn program(world: usize, rounds: usize, seed: u64) -> Program {
    let random = &mut Random::new(seed);
    (0..rounds)
        .map(|_| {
            let mut slots: Vec<usize> = (0..SLOTS).collect();
            random.shuffle(&mut slots);
            let mut steps = Vec::new();
            // Every step takes up to two slots.
            while slots.len() >= 2 {
                steps.push(step(world, &mut slots, random));
            }
            steps
        })
        .collect()
}

fn step(world: usize, slots: &mut Vec<usize>, random: &mut Random) -> Step {
    let mut ranks: Vec<usize> = (0..world).collect();
    random.shuffle(&mut ranks);
    ranks.truncate(1 + random.below(world));
    let len = match random.below(8) {
        0 => 0,
        1 => SLOT - random.below(100),
        2..4 => 1 + random.below(20_000),
        _ => 1 + random.below(300),
    };
    let mut slot = || slots.pop().expect("two slots are left");
    match random.below(if world > 1 { 9 } else { 7 }) {
        0 => Step::AllReduce { ranks, slot: slot(), len },
        1 | 2 => {
            let parts = cut(len, ranks.len(), random);
            let from = slot();
            let to = (random.below(2) == 0).then(slot);
            Step::ReduceScatter { ranks, parts, from, to, len }
        }
        3 | 4 => {
            let parts = cut(len, ranks.len(), random);
            let to = slot();
            let from = (random.below(2) == 0).then(slot);
            Step::AllGather { ranks, parts, from, to, len }
        }
        5 => Step::Broadcast { root: random.below(ranks.len()), ranks, slot: slot(), len },
        6 if random.below(2) == 0 => Step::Barrier { ranks },
        6 => Step::GatherHost { ranks },
        _ => {
            let from = random.below(world);
            let to = (from + 1 + random.below(world - 1)) % world;
            Step::Message { from, to, source: slot(), target: slot(), len, tag: random.below(2) as u64 }
        }
    }
}

/// Parts of any sizes, some empty, with gaps, in any order.
fn cut(len: usize, parts: usize, random: &mut Random) -> Vec<Range<usize>> {
    let mut borders: Vec<usize> = (0..2 * parts).map(|_| random.below(len + 1)).collect();
    borders.sort_unstable();
    if random.below(2) == 0 {
        return triax_comm::parts(len, parts);
    }
    let mut cut: Vec<Range<usize>> = borders.chunks(2).map(|pair| pair[0]..pair[1]).collect();
    random.shuffle(&mut cut);
    cut
}

/// The memory of all ranks before the program.
fn initial(world: usize, seed: u64) -> Memory {
    (0..world).map(|rank| initial_rank(rank, seed)).collect()
}

fn initial_rank(rank: usize, seed: u64) -> Vec<Vec<f32>> {
    let random = &mut Random::new(seed ^ ((rank as u64 + 1) << 32));
    (0..SLOTS).map(|_| (0..SLOT).map(|_| random.float()).collect()).collect()
}

/// The memory of all ranks after the program.
pub(crate) fn oracle(world: usize, program: &Program, seed: u64) -> Memory {
    let mut memory = initial(world, seed);
    for step in program.iter().flatten() {
        apply(step, &mut memory);
    }
    memory
}

fn apply(step: &Step, memory: &mut Memory) {
    match step {
        Step::AllReduce { ranks, slot, len } => {
            let sums = sums(memory, ranks, *slot, 0..*len);
            ranks.iter().for_each(|rank| memory[*rank][*slot][..*len].copy_from_slice(&sums));
        }
        Step::ReduceScatter { ranks, parts, from, to, .. } => {
            let sums: Vec<Vec<f32>> =
                parts.iter().map(|part| sums(memory, ranks, *from, part.clone())).collect();
            for ((rank, part), sum) in ranks.iter().zip(parts).zip(sums) {
                let start = if to.is_some() { 0 } else { part.start };
                memory[*rank][to.unwrap_or(*from)][start..start + part.len()].copy_from_slice(&sum);
            }
        }
        Step::AllGather { ranks, parts, from, to, .. } => {
            for (giver, part) in ranks.iter().zip(parts) {
                let start = if from.is_some() { 0 } else { part.start };
                let given = memory[*giver][from.unwrap_or(*to)][start..start + part.len()].to_vec();
                ranks.iter().for_each(|rank| memory[*rank][*to][part.clone()].copy_from_slice(&given));
            }
        }
        Step::Broadcast { ranks, root, slot, len } => {
            let given = memory[ranks[*root]][*slot][..*len].to_vec();
            ranks.iter().for_each(|rank| memory[*rank][*slot][..*len].copy_from_slice(&given));
        }
        Step::Message { from, to, source, target, len, .. } => {
            let given = memory[*from][*source][..*len].to_vec();
            memory[*to][*target][..*len].copy_from_slice(&given);
        }
        Step::Barrier { .. } | Step::GatherHost { .. } => {}
    }
}

fn sums(memory: &Memory, ranks: &[usize], slot: usize, range: Range<usize>) -> Vec<f32> {
    range.map(|i| tree(&ranks.iter().map(|rank| memory[*rank][slot][i]).collect::<Vec<_>>())).collect()
}

/// The tree as the recursion it is: the largest power of two leaves on the left.
fn tree(values: &[f32]) -> f32 {
    if let [value] = values {
        return *value;
    }
    let left = values.len().next_power_of_two() / 2;
    tree(&values[..left]) + tree(&values[left..])
}

/// Runs the program as one rank; what is in its memory then. `order` decides in which order it waits.
pub(crate) fn run(
    comm: &mut dyn Collective,
    program: &Program,
    seed: u64,
    order: &mut Random,
) -> Result<Vec<Vec<f32>>, CommError> {
    let rank = comm.rank();
    let mut device = Cpu::new(1, Kernel::Auto).expect("any machine has some kernel");
    device.allocate(SLOTS * SLOT * 4, 0).expect("a few megabytes");
    for (slot, values) in initial_rank(rank, seed).iter().enumerate() {
        device.upload_slice(view(slot, SLOT), values);
    }
    for steps in program {
        let mut handles = Vec::new();
        for step in steps {
            begin(comm, &mut device, step, &mut handles)?;
        }
        order.shuffle(&mut handles);
        for handle in handles {
            comm.wait(&mut device, handle)?;
        }
    }
    Ok((0..SLOTS).map(|slot| device.download_vec(view(slot, SLOT))).collect())
}

fn begin(
    comm: &mut dyn Collective,
    device: &mut dyn Device,
    step: &Step,
    handles: &mut Vec<Handle>,
) -> Result<(), CommError> {
    let rank = comm.rank();
    let group = |ranks: &[usize]| {
        let index = ranks.iter().position(|other| *other == rank)?;
        Some(Group { ranks: ranks.to_vec(), index, name: "some" })
    };
    let begun = match step {
        Step::AllReduce { ranks, slot, len } => {
            group(ranks).map(|group| comm.all_reduce(device, &group, view(*slot, *len), "reduced"))
        }
        Step::ReduceScatter { ranks, parts, from, to, len } => group(ranks).map(|group| {
            let (whole, part) = (view(*from, *len), &parts[group.index]);
            let to = to.map_or_else(|| own(whole, part), |to| view(to, part.len()));
            comm.reduce_scatter(device, &group, parts, whole, to, "scattered")
        }),
        Step::AllGather { ranks, parts, from, to, len } => group(ranks).map(|group| {
            let (whole, part) = (view(*to, *len), &parts[group.index]);
            let from = from.map_or_else(|| own(whole, part), |from| view(from, part.len()));
            comm.all_gather(device, &group, parts, from, whole, "gathered")
        }),
        Step::Broadcast { ranks, root, slot, len } => {
            group(ranks).map(|group| comm.broadcast(device, &group, *root, view(*slot, *len), "sent to all"))
        }
        Step::Message { from, to, source, target, len, tag } => {
            if rank == *from {
                Some(comm.send(device, *to, view(*source, *len), *tag, "message"))
            } else if rank == *to {
                Some(comm.receive(device, *from, view(*target, *len), *tag, "message"))
            } else {
                None
            }
        }
        Step::Barrier { ranks } => {
            if let Some(group) = group(ranks) {
                comm.barrier(&group, "together")?;
            }
            None
        }
        Step::GatherHost { ranks } => {
            if let Some(group) = group(ranks) {
                let mine = vec![rank as u8; rank * 1000];
                let all = comm.gather_host(&group, &mine, "bytes")?;
                assert!(all.iter().zip(ranks).all(|(bytes, rank)| *bytes == vec![*rank as u8; rank * 1000]));
            }
            None
        }
    };
    handles.extend(begun.transpose()?);
    Ok(())
}

fn own(whole: View, part: &Range<usize>) -> View {
    whole.flat_range(part.start, part.len())
}

fn view(slot: usize, len: usize) -> View {
    View { offset: slot * SLOT * 4, rows: 1, cols: len, dtype: DType::F32 }
}

/// The first place where a rank's memory is not the oracle's.
pub(crate) fn difference(rank: usize, found: &[Vec<f32>], expected: &Memory) -> Option<String> {
    for (slot, (found, expected)) in found.iter().zip(&expected[rank]).enumerate() {
        let differs = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits();
        if let Some(i) = found.iter().zip(expected).position(differs) {
            return Some(format!(
                "rank {rank}, slot {slot}, element {i}: {} instead of {}",
                found[i], expected[i]
            ));
        }
    }
    None
}
