//! The weights of a decoder: planned by name, then loaded one after the other through one staging buffer, so
//! that no second copy of the model is ever in memory.

use crate::{Declaration, ModelError, TensorSource};
use triax_tensor::{Class, DType, Device, DeviceExt, Epilogue, Gemm, Need, Operand, Packed, Table, View};

/// Virtual shards of sums over the dimension that a row-parallel layer splits, as in training.
const SHARDS: usize = 8;

/// A linear layer's weight, ready for products, and its bias.
#[derive(Clone, Copy)]
pub(super) struct Matrix {
    operand: Operand,
    bias: Option<View>,
    inner_shards: usize,
}

impl Matrix {
    /// `out = epilogue(x · W + bias)`.
    pub(super) fn product(&self, device: &mut dyn Device, x: View, out: View, epilogue: Epilogue) {
        device.gemm(&Gemm {
            left: Operand::InnerCols(x),
            right: self.operand,
            out,
            inner_shards: self.inner_shards,
            accumulate: false,
            epilogue: Epilogue { bias: self.bias, ..epilogue },
        });
    }

    pub(super) const fn need(&self, rows: usize, dtype: DType) -> Need {
        Need::Gemm { m: rows, n: self.operand.outer(), k: self.operand.inner(), dtype }
    }
}

/// How a parameter comes into memory.
enum Place {
    /// As f32.
    Plain(View),
    /// Staged as f32, then packed; `rows`: stored `[inner, outer]`.
    Packed { to: Packed, rows: bool },
    /// Packed from another parameter's f32 values.
    Tied { to: Packed, from: View },
}

/// The parameters planned so far and where they go.
pub(super) struct Loader {
    declarations: Vec<Declaration>,
    dtype: DType,
    places: Vec<(usize, Place)>,
    /// f32, as long as the largest parameter that is staged.
    staging: Option<View>,
}

impl Loader {
    pub(super) fn new(declarations: Vec<Declaration>, dtype: DType) -> Self {
        Self { declarations, dtype, places: Vec::new(), staging: None }
    }

    fn find(&self, name: &str) -> Option<(usize, [usize; 2])> {
        let index = self.declarations.iter().position(|d| d.name == name)?;
        let dims = &self.declarations[index].dims;
        Some((index, if let [rows, cols] = dims[..] { [rows, cols] } else { [1, dims[0]] }))
    }

    /// A parameter kept in f32, if the model has it.
    pub(super) fn plain(&mut self, table: &mut Table, name: &str) -> Option<View> {
        let (index, [rows, cols]) = self.find(name)?;
        let view = table.add(name, Class::Weights, DType::F32, rows, cols);
        self.places.push((index, Place::Plain(view)));
        Some(view)
    }

    fn packed(
        &self,
        device: &dyn Device,
        table: &mut Table,
        name: &str,
        inner: usize,
        outer: usize,
    ) -> Packed {
        table.add_packed(name, Packed::new(device, inner, outer, 1, self.dtype))
    }

    /// The linear layer `name`, stored `[out, in]`.
    pub(super) fn columns(&mut self, device: &dyn Device, table: &mut Table, name: &str) -> Matrix {
        let (index, [outer, inner]) =
            self.find(&format!("{name}.weight")).expect("every layer declares its weight");
        let to = self.packed(device, table, name, inner, outer);
        self.places.push((index, Place::Packed { to, rows: false }));
        let bias = self.plain(table, &format!("{name}.bias"));
        Matrix { operand: Operand::Packed(to), bias, inner_shards: 1 }
    }

    /// The linear layer `name`, stored `[in, out]`.
    pub(super) fn rows(&mut self, device: &dyn Device, table: &mut Table, name: &str) -> Matrix {
        let (index, [inner, outer]) =
            self.find(&format!("{name}.weight")).expect("every layer declares its weight");
        let to = self.packed(device, table, name, inner, outer);
        self.places.push((index, Place::Packed { to, rows: true }));
        let bias = self.plain(table, &format!("{name}.bias"));
        Matrix { operand: Operand::Packed(to), bias, inner_shards: SHARDS }
    }

    /// A linear layer whose weight is the plain parameter `from`, `[out, in]`.
    pub(super) fn tied(&mut self, device: &dyn Device, table: &mut Table, name: &str, from: View) -> Matrix {
        let to = self.packed(device, table, name, from.cols, from.rows);
        let (index, _) = self.find(&format!("{name}.weight")).expect("it is planned already");
        self.places.push((index, Place::Tied { to, from }));
        Matrix { operand: Operand::Packed(to), bias: None, inner_shards: 1 }
    }

    /// Plans the staging buffer; after all parameters.
    pub(super) fn stage(&mut self, table: &mut Table) {
        let staged = self.places.iter().filter(|(_, place)| matches!(place, Place::Packed { .. }));
        let longest = staged.map(|&(index, _)| self.declarations[index].elements()).max().unwrap_or(0);
        self.staging = Some(table.add("staging", Class::Workspace, DType::F32, 1, longest));
    }

    /// Fills all places.
    pub(super) fn load(&self, device: &mut dyn Device, source: &dyn TensorSource) -> Result<(), ModelError> {
        let staging = self.staging.expect("the staging buffer is planned");
        for (index, place) in &self.places {
            let declaration = &self.declarations[*index];
            match *place {
                Place::Plain(view) => device.upload_slice(view, &self.values(declaration, source)?),
                Place::Packed { to, rows } => {
                    let values = self.values(declaration, source)?;
                    let view = staging.flat_range(0, values.len());
                    device.upload_slice(view, &values);
                    let from = match rows {
                        true => Operand::InnerRows(view.reshape(to.inner, to.outer)),
                        false => Operand::InnerCols(view.reshape(to.outer, to.inner)),
                    };
                    device.pack(from, to);
                }
                Place::Tied { to, from } => device.pack(Operand::InnerCols(from), to),
            }
        }
        Ok(())
    }

    fn values(&self, declaration: &Declaration, source: &dyn TensorSource) -> Result<Vec<f32>, ModelError> {
        let values = source.tensor(&declaration.name)?;
        if values.len() != declaration.elements() {
            return Err(ModelError::TensorLength {
                name: declaration.name.clone(),
                found: values.len(),
                expected: declaration.elements(),
                dims: declaration.dims.clone(),
            });
        }
        Ok(values)
    }
}
