//! What a caller of the reference device must get right; each check panics with the operand's name and
//! shape.

use crate::{DType, Packed, View};

/// The view must be `[rows, cols]`.
#[track_caller]
pub(super) fn shape(name: &str, view: View, rows: usize, cols: usize) {
    assert!(
        view.rows == rows && view.cols == cols,
        "{name} is [{}, {}], must be [{rows}, {cols}]",
        view.rows,
        view.cols
    );
}

/// The view must hold `dtype`.
#[track_caller]
pub(super) fn dtype(name: &str, view: View, dtype: DType) {
    assert!(view.dtype == dtype, "{name} is {}, must be {dtype}", view.dtype);
}

/// The view must hold f32, bf16 or f16.
#[track_caller]
pub(super) fn activation(name: &str, view: View) {
    assert!(view.dtype.is_activation(), "{name} is {}, must be f32, bf16 or f16", view.dtype);
}

/// An f32 `[rows, cols]`.
#[track_caller]
pub(super) fn single(name: &str, view: View, rows: usize, cols: usize) {
    shape(name, view, rows, cols);
    dtype(name, view, DType::F32);
}

/// An activation `[rows, cols]` of the same dtype as `like`.
#[track_caller]
pub(super) fn matching(name: &str, view: View, like: View, rows: usize, cols: usize) {
    shape(name, view, rows, cols);
    activation(name, view);
    dtype(name, view, like.dtype);
}

/// Every output must be apart from every input and from every other output.
#[track_caller]
pub(super) fn apart(outputs: &[(&str, View)], inputs: &[(&str, View)]) {
    for (index, &(output_name, output)) in outputs.iter().enumerate() {
        for &(name, view) in inputs.iter().chain(&outputs[index + 1..]) {
            assert!(!overlap(output, view), "{output_name} {output:?} overlaps {name} {view:?}");
        }
    }
}

/// Like [`apart`] for an output that may also be exactly the input.
#[track_caller]
pub(super) fn same_or_apart(output: (&str, View), input: (&str, View)) {
    assert!(
        output.1.offset == input.1.offset && output.1.bytes() == input.1.bytes()
            || !overlap(output.1, input.1),
        "{} {:?} overlaps a part of {} {:?}",
        output.0,
        output.1,
        input.0,
        input.1
    );
}

fn overlap(a: View, b: View) -> bool {
    !a.is_empty() && !b.is_empty() && a.offset < b.offset + b.bytes() && b.offset < a.offset + a.bytes()
}

/// How this device lays a packed operand out: row-major `[outer, inner]`.
#[track_caller]
pub(super) fn unpacked(packed: Packed) -> View {
    let view = View { offset: packed.offset, rows: packed.outer, cols: packed.inner, dtype: packed.dtype };
    assert!(packed.dtype.is_activation(), "a packed operand is {}, must be f32, bf16 or f16", packed.dtype);
    assert!(
        packed.bytes >= view.bytes(),
        "a packed operand of {} bytes, needs {}",
        packed.bytes,
        view.bytes()
    );
    view
}
