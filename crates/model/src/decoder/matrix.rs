//! The weights of a decoder: planned by name, then loaded one after the other through one staging buffer, so
//! that no second copy of the model is ever in memory.

use crate::{Declaration, ModelError, TensorSource, TensorSplit};
use std::ops::Range;
use triax_spec::split::SHARDS;
use triax_tensor::{
    Class, DType, Device, DeviceExt, Epilogue, Gemm, Need, Operand, Packed, Quantised, Table, View,
};

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
        self.gemm(device, x, out, Epilogue { bias: self.bias, ..epilogue });
    }

    /// `partial = x · W`, f32, this rank's part of a row-split layer's sum; the bias comes behind the sum.
    pub(super) fn partial(&self, device: &mut dyn Device, x: View, partial: View) {
        self.gemm(device, x, partial, Epilogue::default());
    }

    pub(super) const fn bias(&self) -> Option<View> {
        self.bias
    }

    fn gemm(&self, device: &mut dyn Device, x: View, out: View, epilogue: Epilogue) {
        device.gemm(&Gemm {
            left: Operand::InnerCols(x),
            right: self.operand,
            out,
            inner_shards: self.inner_shards,
            accumulate: false,
            epilogue,
        });
    }

    pub(super) const fn need(&self, rows: usize, dtype: DType) -> Need {
        match self.operand {
            Operand::Quantised(Quantised { inner, coding, .. }) => {
                Need::Quantised { m: rows, k: inner, coding }
            }
            operand => Need::Gemm { m: rows, n: operand.outer(), k: operand.inner(), dtype },
        }
    }
}

/// How a parameter comes into memory.
enum Place {
    /// As f32.
    Plain(View),
    /// Staged as f32, then packed; `rows`: stored `[inner, outer]`.
    Packed { to: Packed, rows: bool },
    /// From the source's blocks.
    Quantised(Quantised),
    /// Packed from another parameter's f32 values.
    Tied { to: Packed, from: View },
}

/// The parameters planned so far and where they go.
pub(super) struct Loader<'s> {
    source: &'s dyn TensorSource,
    declarations: Vec<Declaration>,
    /// The rank's part of each.
    tensor: TensorSplit,
    dtype: DType,
    places: Vec<(usize, Place)>,
    /// f32, as long as the largest parameter that is staged.
    staging: Option<View>,
}

impl<'s> Loader<'s> {
    pub(super) fn new(
        source: &'s dyn TensorSource,
        declarations: Vec<Declaration>,
        tensor: TensorSplit,
        dtype: DType,
    ) -> Self {
        Self { source, declarations, tensor, dtype, places: Vec::new(), staging: None }
    }

    /// A declared parameter's number, and the dims of this rank's part of it.
    fn find(&self, name: &str) -> Option<(usize, [usize; 2])> {
        let index = self.declarations.iter().position(|d| d.name == name)?;
        let declaration = &self.declarations[index];
        let held = self.tensor.part(declaration.split, declaration.dims[0]).len();
        Some((index, if let [_, cols] = declaration.dims[..] { [held, cols] } else { [1, held] }))
    }

    /// A parameter kept in f32, if the model has it.
    pub(super) fn plain(&mut self, table: &mut Table, name: &str) -> Option<View> {
        let (index, [rows, cols]) = self.find(name)?;
        let view = table.add(name, Class::Weights, DType::F32, rows, cols);
        self.places.push((index, Place::Plain(view)));
        Some(view)
    }

    /// The linear layer `name`, stored `[out, in]`.
    pub(super) fn columns(&mut self, device: &dyn Device, table: &mut Table, name: &str) -> Matrix {
        self.linear(device, table, name, false, None)
    }

    /// The linear layer `name`, stored `[in, out]`.
    pub(super) fn rows(&mut self, device: &dyn Device, table: &mut Table, name: &str) -> Matrix {
        self.linear(device, table, name, true, None)
    }

    /// A linear layer whose weight is the plain parameter `from`, `[out, in]`.
    pub(super) fn tied(&mut self, device: &dyn Device, table: &mut Table, name: &str, from: View) -> Matrix {
        self.linear(device, table, name, false, Some(from))
    }

    fn linear(
        &mut self,
        device: &dyn Device,
        table: &mut Table,
        name: &str,
        rows: bool,
        tied: Option<View>,
    ) -> Matrix {
        let weight = format!("{name}.weight");
        let (index, dims) = self.find(&weight).expect("every layer declares its weight");
        let [outer, inner] = if rows { [dims[1], dims[0]] } else { dims };
        let (operand, place) = match self.source.coding(&weight) {
            Some(coding) => {
                let to = table.add_quantised(name, Quantised::new(device, inner, outer, coding));
                (Operand::Quantised(to), Place::Quantised(to))
            }
            None => {
                let to = table.add_packed(name, Packed::new(device, inner, outer, 1, self.dtype));
                let place = match tied {
                    Some(from) => Place::Tied { to, from },
                    None => Place::Packed { to, rows },
                };
                (Operand::Packed(to), place)
            }
        };
        self.places.push((index, place));
        let bias = if tied.is_none() { self.plain(table, &format!("{name}.bias")) } else { None };
        Matrix { operand, bias, inner_shards: if rows { (SHARDS / self.tensor.size).max(1) } else { 1 } }
    }

    /// Plans the staging buffer; after all parameters.
    pub(super) fn stage(&mut self, table: &mut Table) {
        let staged = self.places.iter().filter(|(_, place)| matches!(place, Place::Packed { .. }));
        let longest = staged.map(|&(index, _)| self.held(index).len()).max().unwrap_or(0);
        self.staging = Some(table.add("staging", Class::Workspace, DType::F32, 1, longest));
    }

    /// Fills all places.
    pub(super) fn load(&self, device: &mut dyn Device) -> Result<(), ModelError> {
        let staging = self.staging.expect("the staging buffer is planned");
        for (index, place) in &self.places {
            let declaration = &self.declarations[*index];
            match *place {
                Place::Plain(view) => device.upload_slice(view, &self.values(*index)?),
                Place::Packed { to, rows } => {
                    let values = self.values(*index)?;
                    let view = staging.flat_range(0, values.len());
                    device.upload_slice(view, &values);
                    let from = match rows {
                        true => Operand::InnerRows(view.reshape(to.inner, to.outer)),
                        false => Operand::InnerCols(view.reshape(to.outer, to.inner)),
                    };
                    device.pack(from, to);
                }
                Place::Quantised(to) => device.upload_quantised(to, &self.blocks(declaration, to)?),
                Place::Tied { to, from } => device.pack(Operand::InnerCols(from), to),
            }
        }
        Ok(())
    }

    /// The elements of a parameter that this rank holds.
    fn held(&self, index: usize) -> Range<usize> {
        let declaration = &self.declarations[index];
        let rows = self.tensor.part(declaration.split, declaration.dims[0]);
        let row: usize = declaration.dims[1..].iter().product();
        rows.start * row..rows.end * row
    }

    fn values(&self, index: usize) -> Result<Vec<f32>, ModelError> {
        let Declaration { name, dims, .. } = &self.declarations[index];
        self.source.elements(name, dims, self.held(index))
    }

    fn blocks(&self, declaration: &Declaration, to: Quantised) -> Result<Vec<u8>, ModelError> {
        let blocks = self.source.blocks(&declaration.name)?;
        let expected = to.outer * to.coding.row_bytes(to.inner);
        if blocks.len() == expected {
            return Ok(blocks);
        }
        let (name, dims) = (declaration.name.clone(), declaration.dims.clone());
        Err(ModelError::TensorLength { name, found: blocks.len(), expected, dims })
    }
}
