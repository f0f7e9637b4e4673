//! A source whose linear layers are quantised while they are loaded.

use crate::{ModelError, Stage, TensorSource, declare};
use std::collections::HashMap;
use triax_spec::model::Model;
use triax_tensor::Coding;

/// Another source with the weights of all linear layers in one coding. Embeddings and norms stay numbers; a tied
/// output layer is quantised, the embedding it is tied to is not.
pub struct Requantised {
    source: Box<dyn TensorSource>,
    coding: Coding,
    /// Dims of the linear layers' parameters, and whether they are stored `[in, out]`.
    matrices: HashMap<String, ([usize; 2], bool)>,
}

impl Requantised {
    /// # Panics
    /// When `coding` is only read, see [`Coding::can_quantise`].
    pub fn new(model: &Model, source: Box<dyn TensorSource>, coding: Coding) -> Self {
        assert!(coding.can_quantise(), "{} is read, not made", coding.name());
        let matrices = declare(model, &Stage::whole(model))
            .into_iter()
            .filter(|d| d.name != "embedding.positions.weight")
            .filter_map(|d| {
                let [rows, cols] = d.dims[..] else { return None };
                let transposed = [".attention.output.weight", ".feed_forward.down.weight"];
                let transposed = transposed.iter().any(|end| d.name.ends_with(end));
                Some((d.name, ([rows, cols], transposed)))
            })
            .collect();
        Self { source, coding, matrices }
    }
}

impl TensorSource for Requantised {
    fn tensor(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        self.source.tensor(name)
    }

    fn coding(&self, name: &str) -> Option<Coding> {
        self.matrices.contains_key(name).then_some(self.coding)
    }

    fn blocks(&self, name: &str) -> Result<Vec<u8>, ModelError> {
        let values = self.source.tensor(name)?;
        let Some(&([rows, cols], transposed)) = self.matrices.get(name) else {
            return Err(ModelError::NoTensor { name: name.into(), available: "linear layers alone".into() });
        };
        if values.len() != rows * cols {
            let (name, found) = (name.to_owned(), values.len());
            return Err(ModelError::TensorLength {
                name,
                found,
                expected: rows * cols,
                dims: vec![rows, cols],
            });
        }
        let mut blocks = Vec::new();
        if transposed {
            let mut row = vec![0.0; rows];
            for col in 0..cols {
                row.iter_mut().zip(values[col..].iter().step_by(cols)).for_each(|(to, &from)| *to = from);
                self.coding.quantise(&row, &mut blocks);
            }
        } else {
            values.chunks_exact(cols).for_each(|row| self.coding.quantise(row, &mut blocks));
        }
        Ok(blocks)
    }
}
