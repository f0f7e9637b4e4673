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
use triax_tensor::{Class, DType, Device, View};

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
