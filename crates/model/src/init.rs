//! Parameter values: first ones by name and index, given ones from a [`TensorSource`], current ones back.

use crate::{Init, ModelError, Parameter};
use std::ops::Range;
use triax_tensor::philox::Stream;
use triax_tensor::{Coding, Device, DeviceExt, View};

/// Named tensors in this crate's names and layouts, see [`crate::declare`].
pub trait TensorSource {
    /// All elements, row by row.
    fn tensor(&self, name: &str) -> Result<Vec<f32>, ModelError>;

    /// The elements `range` of a tensor of `dims`, row by row.
    fn elements(&self, name: &str, dims: &[usize], range: Range<usize>) -> Result<Vec<f32>, ModelError> {
        let mut values = self.tensor(name)?;
        let (found, expected) = (values.len(), dims.iter().product());
        if found != expected {
            return Err(ModelError::TensorLength { name: name.into(), found, expected, dims: dims.to_vec() });
        }
        values.truncate(range.end);
        values.drain(..range.start);
        Ok(values)
    }

    /// How the weights of a linear layer are quantised; `None` where they are numbers.
    fn coding(&self, _name: &str) -> Option<Coding> {
        None
    }

    /// The blocks of a linear layer that has a coding, `[outputs][Coding::row_bytes(inputs)]`, whichever way
    /// round the parameter is stored.
    fn blocks(&self, name: &str) -> Result<Vec<u8>, ModelError> {
        Err(ModelError::NoTensor { name: name.into(), available: "no quantised ones".into() })
    }
}

/// Fills every parameter; element i of a parameter depends on `seed`, its name and i alone.
pub(crate) fn initialise(device: &mut dyn Device, parameters: &[Parameter], seed: u64) {
    for parameter in parameters {
        parameter.initialise(device, seed, 0..parameter.weight.len(), parameter.weight);
    }
}

/// Sets every parameter from `source`.
pub(crate) fn load(
    device: &mut dyn Device,
    parameters: &[Parameter],
    source: &dyn TensorSource,
) -> Result<(), ModelError> {
    parameters
        .iter()
        .try_for_each(|parameter| parameter.load(device, source, 0..parameter.weight.len(), parameter.weight))
}

impl Parameter {
    /// First values of the elements `held` of those that this rank holds, to the view `to`.
    pub fn initialise(&self, device: &mut dyn Device, seed: u64, held: Range<usize>, to: View) {
        let first = (self.elements().start + held.start) as u64;
        match self.init {
            Init::Normal { std } => {
                device.fill_normal(to, Stream::named(seed, &self.name), first, 0.0, std);
            }
            Init::Constant(value) => device.fill(to, value),
        }
    }

    /// The elements `held` of those that this rank holds from `source`, to the view `to`.
    pub fn load(
        &self,
        device: &mut dyn Device,
        source: &dyn TensorSource,
        held: Range<usize>,
        to: View,
    ) -> Result<(), ModelError> {
        let first = self.elements().start;
        let values = source.elements(&self.name, &self.dims, first + held.start..first + held.end)?;
        device.upload_slice(to, &values);
        Ok(())
    }
}

/// The weights in a device's memory as a source; of networks whose layers are whole.
pub struct DeviceTensors<'a> {
    pub(crate) device: &'a dyn Device,
    pub(crate) parameters: &'a [Parameter],
}

impl TensorSource for DeviceTensors<'_> {
    fn tensor(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        match self.parameters.iter().find(|p| p.name == name) {
            Some(parameter) => Ok(self.device.download_vec(parameter.weight)),
            None => Err(ModelError::NoTensor {
                name: name.into(),
                available: format!(
                    "{} parameters, the first `{}`",
                    self.parameters.len(),
                    self.parameters[0].name
                ),
            }),
        }
    }
}
