//! How ranks share a network that generates and scores: tensor ranks each layer, pipeline stages the layers. Every
//! layout that is let in gives the bits of one rank.

use crate::layout::{odd_rows, partial_shards};
use crate::{StageCosts, split_layers};
use std::ops::Range;
use triax_spec::{Model, split};

/// Numbers that fit together and to a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InferenceLayout {
    tensor: usize,
    pipeline: usize,
}

/// Numbers that do not fit to a model, with what would work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InferenceLayoutError {
    #[error("{0}")]
    Tensor(String),
    #[error("{rule}: use at most {most}")]
    Pipeline { rule: String, most: usize },
    /// The sums of these ranks are not those of one.
    #[error("{reason}, so that its results would not be those of one rank: use {works}")]
    OwnBits { reason: String, works: String },
}

impl InferenceLayout {
    /// One rank.
    pub const SINGLE: Self = Self { tensor: 1, pipeline: 1 };

    /// # Errors
    /// When the ranks cannot share the model, or not with the bits of one rank.
    pub fn new(model: &Model, tensor: usize, pipeline: usize) -> Result<Self, InferenceLayoutError> {
        if let Some((rule, _)) = split::refuse_tensor(model, tensor) {
            return Err(InferenceLayoutError::Tensor(rule));
        }
        if let Some((rule, most)) = split::refuse_pipeline(model, pipeline, 1) {
            return Err(InferenceLayoutError::Pipeline { rule, most });
        }
        if let Some(reason) = own_bits(model, tensor) {
            let works: Vec<usize> =
                split::tensor_sizes(model).into_iter().filter(|t| own_bits(model, *t).is_none()).collect();
            return Err(InferenceLayoutError::OwnBits { reason, works: split::or_list(&works) });
        }
        Ok(Self { tensor, pipeline })
    }

    /// Ranks that share each layer.
    pub const fn tensor(&self) -> usize {
        self.tensor
    }

    /// Stages of consecutive layers.
    pub const fn pipeline(&self) -> usize {
        self.pipeline
    }

    /// Number of ranks.
    pub const fn world(&self) -> usize {
        self.tensor * self.pipeline
    }

    /// Each stage's layers, for texts of up to `context` tokens.
    pub fn stages(&self, model: &Model, context: usize) -> Vec<Range<usize>> {
        split_layers(model.layers, self.pipeline, StageCosts::of(model, context))
    }
}

fn own_bits(model: &Model, tensor: usize) -> Option<String> {
    partial_shards("the virtual shards of a sum,", split::SHARDS, tensor).or_else(|| odd_rows(model, tensor))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl Fn(&mut Model), tensor: usize, pipeline: usize) -> String {
        let mut model = triax_spec::presets::find("gpt2-124m").unwrap().model.clone();
        change(&mut model);
        InferenceLayout::new(&model, tensor, pipeline).unwrap_err().to_string()
    }

    #[test]
    fn numbers_that_do_not_fit_say_what_would_work() {
        assert_eq!(refused(|_| (), 8, 1), "heads 12 cannot be split by tensor 8: use 1, 2, 3, 4, 6 or 12");
        let message = refused(|_| (), 1, 13);
        assert_eq!(message, "12 layers cannot fill 13 stages of 1 chunks: use at most 12");
        let message = refused(|_| (), 3, 1);
        assert!(message.starts_with("tensor 3 does not divide the virtual shards of a sum, 8"), "{message}");
        assert!(message.ends_with("use 1, 2 or 4"), "{message}");
        let message = refused(|model| model.ffn = 3076, 4, 1);
        assert!(message.contains("odd parts of 769") && message.ends_with("use 1 or 2"), "{message}");
    }

    #[test]
    fn stages_hold_all_layers_in_order() {
        let model = &triax_spec::presets::find("gpt2-124m").unwrap().model;
        let layout = InferenceLayout::new(model, 2, 3).unwrap();
        assert_eq!(layout.world(), 6);
        let stages = layout.stages(model, 1024);
        assert_eq!(stages.into_iter().flatten().collect::<Vec<_>>(), (0..12).collect::<Vec<_>>());
    }
}
