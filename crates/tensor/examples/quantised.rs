//! Products with quantised weights at the sizes of SmolLM2-135M: `cargo run --release --example quantised [THREADS] [ROWS …]`.
//! Billions of additions and multiplications a second, of the fastest of several runs.

use triax_tensor::cpu::{Cpu, Kernel};
use triax_tensor::philox::Stream;
use triax_tensor::*;

/// Outputs, inputs, coding: of a layer, then of the head.
const MATRICES: [(&str, usize, usize, Coding); 5] = [
    ("qkv", 960, 576, Coding::Q4_1),
    ("output", 576, 576, Coding::Q4_1),
    ("up", 3072, 576, Coding::Q4_1),
    ("down", 576, 1536, Coding::Q4_1),
    ("head", 49_152, 576, Coding::Q8_0),
];

fn main() {
    let mut numbers = std::env::args().skip(1).map(|word| word.parse::<usize>().expect("a number"));
    let threads = numbers.next().unwrap_or(0);
    let rows: Vec<usize> = numbers.collect();
    let rows = if rows.is_empty() { vec![1, 8, 32, 256, 512] } else { rows };
    println!("{}", Cpu::new(threads, Kernel::Auto).expect("a kernel").describe());
    for rows in rows {
        for (name, outer, inner, coding) in MATRICES {
            let speed = product(threads, rows, outer, inner, coding);
            println!("{speed:>9.1} GFLOP/s  {rows:>4} rows  {name}: {} {inner} → {outer}", coding.name());
        }
    }
}

fn product(threads: usize, rows: usize, outer: usize, inner: usize, coding: Coding) -> f64 {
    let mut cpu = Cpu::new(threads, Kernel::Auto).expect("a kernel");
    let mut table = Table::new();
    let x = table.add("x", Class::Workspace, DType::F32, rows, inner);
    let out = table.add("out", Class::Workspace, DType::F32, rows, outer);
    let matrix = table.add_quantised("matrix", Quantised::new(&cpu, inner, outer, coding));
    let scratch = cpu.scratch_bytes(Need::Quantised { m: rows, k: inner, coding });
    cpu.allocate(table.bytes(), scratch).expect("memory for one product");
    cpu.fill_normal(x, Stream::named(1, "x"), 0, 0.0, 1.0);
    let blocks: Vec<u8> = (0..outer * coding.row_bytes(inner)).map(|i| (i * 31 % 97) as u8).collect();
    cpu.upload_quantised(matrix, &blocks);
    let gemm = Gemm {
        left: Operand::InnerCols(x),
        right: Operand::Quantised(matrix),
        out,
        inner_shards: 1,
        accumulate: false,
        epilogue: Epilogue::default(),
    };
    let mut least = f64::INFINITY;
    let work = 2.0 * (rows * outer * inner) as f64;
    for _ in 0..(2e9 / work) as usize + 10 {
        let start = std::time::Instant::now();
        cpu.gemm(&gemm);
        least = least.min(start.elapsed().as_secs_f64());
    }
    work / least / 1e9
}
