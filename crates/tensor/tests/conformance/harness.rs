//! Runs one case on every device and compares.

use proptest::prelude::*;
use triax_tensor::cpu::{Cpu, Kernel};
use triax_tensor::philox::Stream;
use triax_tensor::reference::Reference;
use triax_tensor::{DType, Device, Dropout, Need};

use crate::arena::{Arena, Output, decode};
use crate::bound::holds;

pub(crate) const KERNELS: [Kernel; 5] =
    [Kernel::Amx, Kernel::Avx512Bf16, Kernel::Avx512, Kernel::Avx2, Kernel::Portable];

/// Devices to compare with the reference: every kernel this machine can run.
fn devices() -> Vec<Box<dyn Device>> {
    let mut devices: Vec<Box<dyn Device>> = Vec::new();
    for kernel in KERNELS {
        if let Ok(cpu) = Cpu::new(2, kernel) {
            devices.push(Box::new(cpu));
        }
    }
    devices
}

struct Result {
    outputs: Vec<Output>,
    bytes: Vec<Vec<u8>>,
}

fn run(
    device: &mut dyn Device,
    bytes: usize,
    needs: &[Need],
    case: &dyn Fn(&mut Arena<'_>) -> Vec<Output>,
) -> Result {
    let name = device.describe();
    let mut arena = Arena::new(device, bytes, needs);
    let outputs = case(&mut arena);
    arena.assert_only_changed(&outputs, &name);
    let bytes = outputs.iter().map(|output| arena.download(output.view)).collect();
    Result { outputs, bytes }
}

/// Requires that every device agrees with the reference on the case, in an arena of `bytes`, with scratch
/// memory for `needs` and no more, and that the number of threads does not matter.
pub(crate) fn check(bytes: usize, needs: &[Need], case: impl Fn(&mut Arena<'_>) -> Vec<Output>) {
    let expected = run(&mut Reference::new(), bytes, needs, &case);
    for mut device in devices() {
        let found = run(device.as_mut(), bytes, needs, &case);
        compare(&found, &expected, &device.describe());
    }
    let of_threads = |threads| run(&mut Cpu::new(threads, Kernel::Auto).unwrap(), bytes, needs, &case);
    let one = of_threads(1);
    for threads in [2, 3] {
        let more = of_threads(threads);
        for (index, output) in one.outputs.iter().enumerate() {
            assert!(one.bytes[index] == more.bytes[index], "{}: 1 and {threads} threads differ", output.name);
        }
    }
}

fn compare(found: &Result, expected: &Result, device: &str) {
    for (index, output) in expected.outputs.iter().enumerate() {
        let (name, dtype, cols) = (output.name, output.view.dtype, output.view.cols);
        let found = decode(&found.bytes[index], dtype);
        let expected = decode(&expected.bytes[index], dtype);
        for (i, ((&found, &expected), &bound)) in found.iter().zip(&expected).zip(&output.bound).enumerate() {
            assert!(bound.is_finite(), "the bound of {name} is {bound}");
            assert!(
                holds(found, expected, bound, dtype),
                "{device}: {name}[{}, {}] ({dtype}) is {found:e}, the reference has {expected:e}: {:e} apart, \
                 {bound:e} before rounding allowed",
                i / cols,
                i % cols,
                (found - expected).abs()
            );
        }
    }
}

/// Dtypes of activations.
pub(crate) fn act() -> impl Strategy<Value = DType> {
    prop_oneof![Just(DType::F32), Just(DType::Bf16), Just(DType::F16)]
}

/// Sizes around the edges of tiles and vectors.
pub(crate) fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        1usize..20,
        20usize..80,
        prop_oneof![
            Just(1usize),
            Just(7),
            Just(8),
            Just(16),
            Just(31),
            Just(33),
            Just(48),
            Just(49),
            Just(64)
        ]
    ]
}

/// A dropout over a matrix that is the part from (3, 5) of a wider one.
pub(crate) fn dropout(cols: usize) -> Dropout {
    let stream = Stream::named(11, "dropout");
    Dropout { rate: 0.3, stream, first_row: 3, first_col: 5, cols_total: cols as u64 + 9 }
}
