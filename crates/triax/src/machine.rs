//! This machine: the device a command asks for, its arithmetic peak, and how much memory the process held.

use crate::arguments::DeviceArguments;
use crate::console;
use crate::failure::Failure;
use triax_spec::Run;
use triax_spec::run::{DeviceKind, Kernel, Precision};
use triax_tensor::cpu::{self, Cpu};
use triax_tensor::reference::Reference;
use triax_tensor::{Class, DType, Device, Table};

/// The device that a run file asks for. Ranks that are threads share the cores out.
pub(crate) fn selected(run: &Run) -> DeviceArguments {
    for_training(DeviceArguments {
        device: run.device.kind,
        threads: run.device.threads,
        kernel: run.device.kernel,
    })
}

/// With the kernel that trains fastest, where the choice is left to us.
pub(crate) fn for_training(arguments: DeviceArguments) -> DeviceArguments {
    let is_free = arguments.device == DeviceKind::Cpu && arguments.kernel == Kernel::Auto;
    let kernel = match cpu::Kernel::of_many_rows() {
        cpu::Kernel::Avx512 if is_free => Kernel::Avx512,
        _ => arguments.kernel,
    };
    DeviceArguments { kernel, ..arguments }
}

/// The threads of each of `ranks` ranks on this machine.
pub(crate) fn threads_of_a_rank(threads: usize, ranks: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    match threads {
        0 => (cores / ranks).max(1),
        threads => threads,
    }
}

/// A device without memory yet.
pub(crate) fn device(arguments: DeviceArguments) -> Result<Box<dyn Device>, Failure> {
    match arguments.device {
        DeviceKind::Cpu => Ok(Box::new(cpu(arguments)?)),
        DeviceKind::Reference => Ok(Box::new(Reference::new())),
    }
}

/// Whose roundings a device of these arguments would have on this machine: results are the same bits on all machines
/// of which this says the same. Where the machine has no such kernel, that is what it says.
pub(crate) fn arithmetic(arguments: DeviceArguments) -> String {
    match arguments.device {
        DeviceKind::Cpu => match Cpu::new(1, kernel(arguments.kernel)) {
            Ok(cpu) => format!("{:?}", cpu.kernel()),
            Err(error) => format!("none ({error})"),
        },
        DeviceKind::Reference => "the reference's".to_owned(),
    }
}

/// The CPU device itself, where its peak is asked for.
pub(crate) fn cpu(arguments: DeviceArguments) -> Result<Cpu, Failure> {
    Cpu::new(arguments.threads, kernel(arguments.kernel)).map_err(|error| {
        Failure::usage(error.to_string()).help("--kernel auto takes the best this machine has")
    })
}

/// Register-resident peak in GFLOP/s, measured now; the reference device has none worth naming.
pub(crate) fn peak_of(arguments: DeviceArguments, precision: Precision) -> Result<Option<f64>, Failure> {
    match arguments.device {
        DeviceKind::Cpu => Ok(Some(cpu(arguments)?.peak_gflops(dtype(precision)))),
        DeviceKind::Reference => Ok(None),
    }
}

/// What will be allocated, by class.
pub(crate) fn memory_classes(table: &Table, scratch_bytes: usize) -> Vec<(String, usize)> {
    let classes = Class::ALL.iter().map(|&class| (class.name(), table.class_bytes(class)));
    classes.chain([("scratch", scratch_bytes)]).map(|(name, bytes)| (name.to_owned(), bytes)).collect()
}

/// The same as a table, with the sum.
pub(crate) fn memory_table(table: &Table, scratch_bytes: usize) -> String {
    let mut lines = String::new();
    let mut rows = memory_classes(table, scratch_bytes);
    rows.push(("together".to_owned(), table.bytes() + scratch_bytes));
    for (name, size) in rows {
        lines.push_str(&format!("  {name:<16} {:>10}\n", console::bytes(size)));
    }
    lines
}

pub(crate) const fn dtype(precision: Precision) -> DType {
    match precision {
        Precision::Bf16 => DType::Bf16,
        Precision::F16 => DType::F16,
        Precision::F32 => DType::F32,
    }
}

const fn kernel(kernel: Kernel) -> cpu::Kernel {
    match kernel {
        Kernel::Auto => cpu::Kernel::Auto,
        Kernel::Amx => cpu::Kernel::Amx,
        Kernel::Avx512Bf16 => cpu::Kernel::Avx512Bf16,
        Kernel::Avx512 => cpu::Kernel::Avx512,
        Kernel::Avx2 => cpu::Kernel::Avx2,
        Kernel::Portable => cpu::Kernel::Portable,
    }
}

/// Most resident memory of this process so far, in MB (10⁶ bytes); none where the system does not tell.
pub(crate) fn peak_rss_mb() -> Option<f64> {
    status_bytes("VmHWM:").map(|bytes| bytes as f64 / 1e6)
}

/// Resident memory of this process now; none where the system does not tell.
pub(crate) fn resident_bytes() -> Option<usize> {
    status_bytes("VmRSS:")
}

fn status_bytes(field: &str) -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(1024 * kib)
}
