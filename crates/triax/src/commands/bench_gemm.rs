//! `triax bench gemm`: the matrix products of GPT-2's layers against the device's register-resident peak.
//!
//! For a linear layer of T tokens, N outputs, K inputs:
//!
//! ```text
//! forward          y[T, N]  = x[T, K]  · w[N, K]ᵀ     weight packed before, as a training step has it
//! input gradient   dx[T, K] = dy[T, N] · w[N, K]      weight packed before
//! weight gradient  dw[N, K] += dy[T, N]ᵀ · x[T, K]    in f32
//! ```

use crate::arguments::BenchGemm;
use crate::console::json_line;
use crate::failure::{Context, Failure};
use crate::machine;
use crate::random_steps::median;
use serde::Serialize;
use std::time::Instant;
use triax_tensor::cpu::Cpu;
use triax_tensor::philox::Stream;
use triax_tensor::{Class, DType, Device, DeviceExt, Epilogue, Gemm, Need, Operand, Packed, Table, View};

/// Tokens, outputs, inputs.
const SHAPES: [[usize; 3]; 4] = [[1024, 768, 768], [1024, 3072, 768], [1024, 768, 3072], [1024, 50304, 768]];

const PRODUCTS: [(&str, Product); 3] = [
    ("forward", Product::Forward),
    ("input_gradient", Product::InputGradient),
    ("weight_gradient", Product::WeightGradient),
];

/// Each product has this many turns, so that what else the machine does for some seconds does not fall on one product alone; the
/// median of all repetitions counts.
const TURNS: usize = 5;
/// Seconds each product is repeated for in a turn.
const SECONDS: f64 = 0.4;
const LEAST_REPEATS: usize = 3;

#[derive(Clone, Copy)]
enum Product {
    Forward,
    InputGradient,
    WeightGradient,
}

#[derive(Serialize)]
struct Line {
    shape: String,
    product: &'static str,
    dtype: &'static str,
    gflops: f64,
    peak_gflops: f64,
    share: f64,
}

pub(crate) fn run(arguments: &BenchGemm) -> Result<(), Failure> {
    let mut device = machine::cpu(arguments.device)?;
    let dtype = machine::dtype(arguments.dtype);
    eprintln!("{}, {}", device.describe(), arguments.dtype);
    // One peak for all products, the best seen between them: what depresses it is another process, and a
    // product judged by a depressed peak would look better than it is.
    let mut peak_gflops = device.peak_gflops(dtype);
    let mut seconds = vec![Vec::new(); SHAPES.len() * PRODUCTS.len()];
    for _ in 0..TURNS {
        let mut turn = seconds.iter_mut();
        for shape in SHAPES {
            let operands = Operands::prepare(&mut device, shape, dtype)?;
            for ((_, product), seconds) in PRODUCTS.into_iter().zip(&mut turn) {
                operands.measure(&mut device, product, seconds);
                peak_gflops = peak_gflops.max(device.peak_gflops(dtype));
            }
        }
    }
    let products = SHAPES.into_iter().flat_map(|shape| PRODUCTS.map(|(name, _)| (shape, name)));
    eprintln!("{:>16}  {:<16} {:>8}  {:>8}  {:>6}", "tokens×out×in", "product", "GFLOP/s", "peak", "share");
    for ((shape, name), seconds) in products.zip(&seconds) {
        let gflops = 2.0 * shape.iter().product::<usize>() as f64 / median(seconds) / 1e9;
        let line = Line {
            shape: format!("{}x{}x{}", shape[0], shape[1], shape[2]),
            product: name,
            dtype: arguments.dtype.name(),
            gflops,
            peak_gflops,
            share: gflops / peak_gflops,
        };
        let share = 100.0 * line.share;
        eprintln!("{:>16}  {name:<16} {gflops:>8.1}  {peak_gflops:>8.1}  {share:>5.1}%", line.shape);
        if arguments.json {
            json_line(&line)?;
        }
    }
    Ok(())
}

/// The buffers of one linear layer.
struct Operands {
    x: View,
    y: View,
    dx: View,
    dw: View,
    packed_forward: Packed,
    packed_backward: Packed,
}

impl Operands {
    fn prepare(device: &mut Cpu, shape: [usize; 3], dtype: DType) -> Result<Self, Failure> {
        let [t, n, k] = shape;
        let mut table = Table::new();
        let mut view = |name, dtype, rows, cols| table.add(name, Class::Workspace, dtype, rows, cols);
        let (x, y, dx) = (view("x", dtype, t, k), view("y", dtype, t, n), view("dx", dtype, t, k));
        let (w, dw) = (view("w", DType::F32, n, k), view("dw", DType::F32, n, k));
        let values = view("values", DType::F32, t, n.max(k));
        let packed = |table: &mut Table, name, inner, outer| {
            table.add_packed(name, Packed::new(device, inner, outer, 1, dtype))
        };
        let packed_forward = packed(&mut table, "packed w", k, n);
        let packed_backward = packed(&mut table, "packed w for the gradient", n, k);
        let needs = [(t, n, k), (t, k, n), (n, k, t)].map(|(m, n, k)| Need::Gemm { m, n, k, dtype });
        let scratch = needs.iter().map(|&need| device.scratch_bytes(need)).max().unwrap_or(0);
        device.allocate(table.bytes(), scratch).context(|| {
            format!("the products of {t}x{n}x{k} need {}", crate::console::bytes(table.bytes()))
        })?;
        for (name, view) in [("x", x), ("y", y)] {
            let values = values.flat_range(0, view.len());
            device.fill_normal(values, Stream::named(1, name), 0, 0.0, 1.0);
            device.cast(values, view);
        }
        device.fill_normal(w, Stream::named(1, "w"), 0, 0.0, 0.02);
        device.pack(Operand::InnerCols(w), packed_forward);
        device.pack(Operand::InnerRows(w), packed_backward);
        Ok(Self { x, y, dx, dw, packed_forward, packed_backward })
    }

    fn gemm(&self, product: Product) -> Gemm {
        let (left, right, out, accumulate) = match product {
            Product::Forward => {
                (Operand::InnerCols(self.x), Operand::Packed(self.packed_forward), self.y, false)
            }
            Product::InputGradient => {
                (Operand::InnerCols(self.y), Operand::Packed(self.packed_backward), self.dx, false)
            }
            Product::WeightGradient => {
                (Operand::InnerRows(self.y), Operand::InnerRows(self.x), self.dw, true)
            }
        };
        // As the network runs them: the sums that tensor parallelism splits are made in eight shards.
        let inner_shards = if matches!(product, Product::InputGradient) { 8 } else { 1 };
        Gemm { left, right, out, inner_shards, accumulate, epilogue: Epilogue::default() }
    }

    /// Adds the seconds of this turn's repetitions.
    fn measure(&self, device: &mut Cpu, product: Product, seconds: &mut Vec<f64>) {
        let gemm = self.gemm(product);
        // One element read back waits for the device.
        let wait = |device: &Cpu| device.download_vec::<u8>(self.dw.flat_range(0, 1)).len();
        device.gemm(&gemm);
        wait(device);
        let (begin, before) = (Instant::now(), seconds.len());
        while begin.elapsed().as_secs_f64() < SECONDS || seconds.len() - before < LEAST_REPEATS {
            let start = Instant::now();
            device.gemm(&gemm);
            wait(device);
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
}
