//! One rank's device and its end of the tensor group, with the conjugate operators of tensor parallelism.
//!
//! ```text
//!                                forward                           backward
//! enter (before column-split)    copy, or gather the tokens        sum, or sum and scatter the tokens
//! leave (behind row-split)       sum, or sum and scatter           copy, or gather the tokens
//! ```
//! The second form of each is sequence parallelism: between `leave` and `enter` a rank holds 1/t of the tokens.
//! Each operator's backward is the other's forward, so two functions are all of it: [`Exchange::spread`] (copy |
//! gather) and [`Exchange::join`] (sum | sum and scatter). Sums are f32 in the collective's fixed tree.
//! (Shoeybi et al., "Megatron-LM", 2019, section 3; Korthikanti et al., "Reducing activation recomputation",
//! 2022, section 4.2.)

use crate::pass::Pass;
use crate::plan::Builder;
use triax_comm::{Collective, CommError, Group, parts};
use triax_tensor::{Class, DType, Device, Table, View};

/// What a rank computes and talks with.
pub struct Rank<'a> {
    pub device: &'a mut dyn Device,
    /// The rank's end of the world; none where it is the whole of it.
    pub collective: Option<&'a mut dyn Collective>,
    /// The ranks that share its layers; none where it holds whole layers.
    pub tensor: Option<&'a Group>,
}

impl<'a> Rank<'a> {
    /// The only rank of its world.
    pub fn alone(device: &'a mut dyn Device) -> Self {
        Self { device, collective: None, tensor: None }
    }

    fn tensor(&mut self) -> (&mut dyn Device, &mut dyn Collective, &Group) {
        let collective = self.collective.as_deref_mut().expect("ranks that share layers have a world");
        (self.device, collective, self.tensor.expect("split layers have a tensor group"))
    }

    /// Every member's equal part of `to`, which already holds this rank's own.
    pub(crate) fn gather(&mut self, to: View, what: &'static str) -> Result<(), CommError> {
        let (device, collective, group) = self.tensor();
        let parts = parts(to.len(), group.size());
        let own = to.flat_range(parts[group.index].start, parts[group.index].len());
        let handle = collective.all_gather(device, group, &parts, own, to, what)?;
        collective.wait(device, handle)
    }

    /// The sum over the tensor group, in place.
    pub(crate) fn sum(&mut self, view: View, what: &'static str) -> Result<(), CommError> {
        let (device, collective, group) = self.tensor();
        let handle = collective.all_reduce(device, group, view, what)?;
        collective.wait(device, handle)
    }

    /// The sum over the tensor group of this rank's equal part of `view`, in place.
    fn sum_own(&mut self, view: View, what: &'static str) -> Result<View, CommError> {
        let (device, collective, group) = self.tensor();
        let parts = parts(view.len(), group.size());
        let own = view.flat_range(parts[group.index].start, parts[group.index].len());
        let handle = collective.reduce_scatter(device, group, &parts, view, own, what)?;
        collective.wait(device, handle)?;
        Ok(own)
    }
}

/// The buffers through which the ranks of a tensor group exchange activations; absent where layers are whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exchange {
    /// A rank's part of a sum, f32 `[T, h]`.
    partial: View,
    /// All tokens of what a rank holds 1/t of, act `[T, h]`; sequence parallelism only.
    gathered: Option<View>,
}

impl Exchange {
    pub(crate) fn plan(builder: &mut Builder<'_>) -> Option<Self> {
        let split = builder.options.tensor;
        (split.size > 1).then(|| {
            let (class, hidden, act) = (Class::Workspace, builder.model.hidden, builder.options.dtype);
            Self {
                partial: builder.rows("part of a sum".into(), class, DType::F32, hidden),
                gathered: split.sequence.then(|| builder.rows("gathered tokens".into(), class, act, hidden)),
            }
        })
    }

    /// For a decoder of up to `rows` tokens a step, whose ranks hold all of them.
    pub(crate) fn of_decoder(table: &mut Table, rows: usize, hidden: usize) -> Self {
        let partial = table.add("part of a sum", Class::Workspace, DType::F32, rows, hidden);
        Self { partial, gathered: None }
    }

    /// Where a rank's part of a sum over all tokens goes, f32 `[T, h]`.
    pub(crate) fn partial(&self, pass: &Pass) -> View {
        self.partial.row_range(0, pass.tokens())
    }

    /// What every rank holds the same of, or 1/t of, as a view of all tokens: act `[T, h]`. `into` replaces the
    /// shared buffer.
    pub(crate) fn spread(
        &self,
        rank: &mut Rank<'_>,
        pass: &Pass,
        local: View,
        into: Option<View>,
        what: &'static str,
    ) -> Result<View, CommError> {
        let Some(gathered) = into.or(self.gathered) else { return Ok(local) };
        if !pass.is_split() {
            return Ok(local);
        }
        let all = gathered.row_range(0, pass.tokens());
        rank.device.cast(local, all.row_range(pass.first_local(), pass.local_tokens()));
        rank.gather(all, what)?;
        Ok(all)
    }

    /// The sum over the group of [`Exchange::partial`], this rank's tokens of it: f32 `[T or T / t, h]`.
    pub(crate) fn join(
        &self,
        rank: &mut Rank<'_>,
        pass: &Pass,
        what: &'static str,
    ) -> Result<View, CommError> {
        let partial = self.partial(pass);
        if pass.is_split() {
            let own = rank.sum_own(partial, what)?;
            Ok(own.reshape(pass.local_tokens(), partial.cols))
        } else {
            rank.sum(partial, what)?;
            Ok(partial)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use triax_comm::local::World;
    use triax_tensor::cpu::{Cpu, Kernel};
    use triax_tensor::{DeviceExt, Mask};

    const HIDDEN: usize = 6;

    /// Small whole numbers: products and sums of them are exact in f32, and so are the inner products here.
    fn numbers(seed: usize, rank: usize, len: usize) -> Vec<f32> {
        let mix =
            |i: usize| (i + 1).wrapping_mul(2_654_435_761 + 97 * seed) ^ (rank + 1).wrapping_mul(40_503);
        (0..len).map(|i| ((mix(i) >> 7) % 19) as f32 - 9.0).collect()
    }

    fn dot(a: &[f32], b: &[f32]) -> i64 {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).map(|(&a, &b)| a as i64 * b as i64).sum()
    }

    /// Runs both functions on every rank of a group: what `spread` makes of `local`, and `join` of `partial`.
    fn spread_and_join(
        size: usize,
        sequence: bool,
        tokens: usize,
        local: impl Fn(usize) -> Vec<f32> + Sync,
        partial: impl Fn(usize) -> Vec<f32> + Sync,
    ) -> Vec<(Vec<f32>, Vec<f32>)> {
        let run = |mut rank: triax_comm::local::LocalRank, index: usize| {
            let parts = if sequence { size } else { 1 };
            let mut table = Table::new();
            let mut add = |name: &str, rows| table.add(name, Class::Workspace, DType::F32, rows, HIDDEN);
            let own = add("local", tokens / parts);
            let exchange = Exchange {
                partial: add("partial", tokens),
                gathered: sequence.then(|| add("gathered", tokens)),
            };
            let mut device = Cpu::new(1, Kernel::Auto).unwrap();
            device.allocate(table.bytes(), 0).unwrap();
            device.upload_slice(own, &local(index));
            device.upload_slice(exchange.partial, &partial(index));
            let group = Group { ranks: (0..size).collect(), index, name: "tensor" };
            let pass = Pass { parts, part: index % parts, ..Pass::plain(1, tokens, Mask::Causal) };
            let results = {
                let mut rank =
                    Rank { device: &mut device, collective: Some(&mut rank), tensor: Some(&group) };
                let all = exchange.spread(&mut rank, &pass, own, None, "values").unwrap();
                let sum = exchange.join(&mut rank, &pass, "values").unwrap();
                (rank.device.download_vec(all), rank.device.download_vec(sum))
            };
            rank.leave().unwrap();
            results
        };
        std::thread::scope(|scope| {
            let run = &run;
            let ranks = World::new(size, Default::default()).into_iter().enumerate();
            let threads: Vec<_> = ranks.map(|(index, rank)| scope.spawn(move || run(rank, index))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    /// ⟨spread x, y⟩ = ⟨x, join y⟩, where what all ranks hold the same of counts once: copy and sum are adjoint, and
    /// so are gather and sum-and-scatter. As each is the forward of one operator and the backward of another, this is
    /// the adjointness of all four.
    #[test]
    fn spreading_and_joining_are_adjoint_for_every_size_of_group() {
        for size in 1..=8 {
            for sequence in [false, true] {
                let tokens = 3 * size;
                let local = |rank: usize| {
                    // Without sequence parallelism all ranks hold the same.
                    if sequence { numbers(1, rank, 3 * HIDDEN) } else { numbers(1, 0, tokens * HIDDEN) }
                };
                let partial = |rank: usize| numbers(2, rank, tokens * HIDDEN);
                let results = spread_and_join(size, sequence, tokens, local, partial);
                let outside: i64 = (0..size).map(|rank| dot(&results[rank].0, &partial(rank))).sum();
                let inside: i64 = if sequence {
                    (0..size).map(|rank| dot(&local(rank), &results[rank].1)).sum()
                } else {
                    dot(&local(0), &results[0].1)
                };
                assert_eq!(outside, inside, "{size} ranks, sequence parallel: {sequence}");
                assert!(outside != 0);
                let first = &results[0];
                assert!(
                    results.iter().all(|(spread, _)| *spread == first.0),
                    "every rank sees the same tokens"
                );
                let same = results.iter().all(|(_, joined)| *joined == first.1);
                assert!(sequence || same, "every rank has the same sum");
            }
        }
    }
}
