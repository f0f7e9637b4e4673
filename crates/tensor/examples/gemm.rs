//! What virtual shards and the GELU epilogue cost a product, beside the plain one, in turn:
//! `cargo run --release -p triax-tensor --example gemm`. Shares of the peak are `triax bench gemm`'s business.

use std::time::Instant;
use triax_tensor::cpu::{Cpu, Kernel};
use triax_tensor::philox::Stream;
use triax_tensor::{
    Activation, Class, DType, Device, DeviceExt, Epilogue, Gemm, Need, Operand, Packed, Table,
};

/// Turns of each product; medians count.
const TURNS: usize = 41;

fn main() {
    let mut cpu = Cpu::new(0, Kernel::Auto).expect("every machine has a kernel");
    println!("{}", cpu.describe());
    let dtype = DType::Bf16;
    for (tokens, out, inner) in [(1024, 768, 768), (1024, 3072, 768), (1024, 768, 3072), (512, 50304, 768)] {
        let mut table = Table::new();
        let x = table.add("x", Class::Activations, dtype, tokens, inner);
        let [y, pre] = ["y", "pre"].map(|name| table.add(name, Class::Activations, dtype, tokens, out));
        let weight = table.add("weight", Class::Weights, DType::F32, out, inner);
        let forward = table.add_packed("packed", Packed::new(&cpu, inner, out, 1, dtype));
        let scratch = cpu.scratch_bytes(Need::Gemm { m: tokens, n: out, k: inner, dtype });
        cpu.allocate(table.bytes(), scratch).expect("memory");
        let stream = Stream::named(1, "x");
        let values: Vec<half::bf16> =
            (0..x.len() as u64).map(|i| half::bf16::from_f32(stream.uniform(i) - 0.5)).collect();
        cpu.upload_slice(x, &values);
        cpu.fill_normal(weight, stream, 0, 0.0, 0.02);
        cpu.pack(Operand::InnerCols(weight), forward);
        let plain = Gemm {
            left: Operand::InnerCols(x),
            right: Operand::Packed(forward),
            out: y,
            inner_shards: 1,
            accumulate: false,
            epilogue: Epilogue::default(),
        };
        let sharded = Gemm { inner_shards: 8, ..plain };
        let activation = Activation::Gelu { pre };
        let gelu = Gemm { epilogue: Epilogue { activation, ..Epilogue::default() }, ..plain };
        let products = [("plain", plain), ("8 shards", sharded), ("gelu", gelu)];
        let mut seconds = [const { Vec::new() }; 3];
        for _ in 0..TURNS {
            for ((_, product), seconds) in products.iter().zip(&mut seconds) {
                let start = Instant::now();
                cpu.gemm(product);
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
        let medians = seconds.map(|mut s| {
            s.sort_by(f64::total_cmp);
            s[TURNS / 2]
        });
        for ((name, _), median) in products.iter().zip(medians) {
            let more = 100.0 * (median / medians[0] - 1.0);
            println!("{tokens}x{out}x{inner}  {name:<9} {:8.3} ms  {more:+.1} %", 1e3 * median);
        }
    }
}
