//! Parameter values: first ones by name and index, given ones from a [`TensorSource`], current ones back.

use crate::{Init, ModelError, Parameter};
use triax_tensor::philox::Stream;
use triax_tensor::{Coding, Device, DeviceExt};

/// Named tensors in this crate's names and layouts, see [`crate::declare`].
pub trait TensorSource {
    /// All elements, row by row.
    fn tensor(&self, name: &str) -> Result<Vec<f32>, ModelError>;

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
        match parameter.init {
            Init::Normal { std } => {
                let first = (parameter.rows.start * parameter.row_len()) as u64;
                device.fill_normal(parameter.weight, Stream::named(seed, &parameter.name), first, 0.0, std);
            }
            Init::Constant(value) => device.fill(parameter.weight, value),
        }
    }
}

/// Sets every parameter from `source`.
pub(crate) fn load(
    device: &mut dyn Device,
    parameters: &[Parameter],
    source: &dyn TensorSource,
) -> Result<(), ModelError> {
    for parameter in parameters {
        let values = source.tensor(&parameter.name)?;
        let expected = parameter.dims.iter().product();
        if values.len() != expected {
            return Err(ModelError::TensorLength {
                name: parameter.name.clone(),
                found: values.len(),
                expected,
                dims: parameter.dims.clone(),
            });
        }
        let row = parameter.row_len();
        device.upload_slice(parameter.weight, &values[parameter.rows.start * row..parameter.rows.end * row]);
    }
    Ok(())
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
