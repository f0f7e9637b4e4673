//! Prints what share of the arithmetic peak each product of GPT-2's layers reaches.

use std::time::Instant;
use triax_tensor::cpu::{Cpu, Kernel};
use triax_tensor::{Activation, Class, DType, Device, Epilogue, Gemm, Need, Operand, Table};

fn main() {
    let mut cpu = Cpu::new(0, Kernel::Auto).expect("every machine has a kernel");
    println!("{}", cpu.describe());
    let dtype = DType::Bf16;
    for (tokens, out, inner) in [(1024, 768, 768), (1024, 3072, 768), (1024, 768, 3072), (512, 50304, 768)] {
        let mut table = Table::new();
        let x = table.add("x", Class::Activations, dtype, tokens, inner);
        let dy = table.add("dy", Class::Activations, dtype, tokens, out);
        let dx = table.add("dx", Class::Activations, dtype, tokens, inner);
        let y = table.add("y", Class::Activations, dtype, tokens, out);
        let weight = table.add("w", Class::Weights, DType::F32, out, inner);
        let grad = table.add("g", Class::Gradients, DType::F32, out, inner);
        let forward = table.add_packed("f", dtype, inner, out, cpu.packed_bytes(inner, out, dtype));
        let backward = table.add_packed("b", dtype, out, inner, cpu.packed_bytes(out, inner, dtype));
        let scratch = [(tokens, out, inner), (tokens, inner, out), (out, inner, tokens)]
            .map(|(m, n, k)| cpu.scratch_bytes(Need::Gemm { m, n, k, dtype }));
        cpu.allocate(table.bytes(), scratch.into_iter().max().unwrap_or(0)).expect("memory");
        let stream = triax_tensor::philox::Stream::named(1, "x");
        let values: Vec<half::bf16> = (0..(tokens * out.max(inner)) as u64)
            .map(|i| half::bf16::from_f32(stream.uniform(i) - 0.5))
            .collect();
        cpu.upload(x, bytemuck::cast_slice(&values[..x.len()]));
        cpu.upload(dy, bytemuck::cast_slice(&values[..dy.len()]));
        let start = Instant::now();
        cpu.pack(Operand::InnerCols(weight), forward);
        let packed = start.elapsed();
        cpu.pack(Operand::InnerRows(weight), backward);
        println!(
            "{tokens}x{out}x{inner}: packing {:.2} + {:.2} ms",
            packed.as_secs_f64() * 1e3,
            (start.elapsed() - packed).as_secs_f64() * 1e3
        );
        let plain = |left, right, out, inner_shards| Gemm {
            left,
            right,
            out,
            inner_shards,
            accumulate: out == grad,
            epilogue: Epilogue::default(),
        };
        let mut gelu = plain(Operand::InnerCols(x), Operand::Packed(forward), y, 1);
        gelu.epilogue.activation = Activation::Gelu { pre: dy };
        let products = [
            ("forward", plain(Operand::InnerCols(x), Operand::Packed(forward), y, 1)),
            ("forward, 8 shards", plain(Operand::InnerCols(x), Operand::Packed(forward), y, 8)),
            ("forward, gelu", gelu),
            ("input gradient, 8 shards", plain(Operand::InnerCols(dy), Operand::Packed(backward), dx, 8)),
            ("weight gradient", plain(Operand::InnerRows(dy), Operand::InnerRows(x), grad, 1)),
        ];
        for (name, gemm) in products {
            let peak = cpu.peak_gflops(dtype);
            let times = if out > 10_000 { 5 } else { 20 };
            let mut seconds: Vec<f64> = (0..times)
                .map(|_| {
                    let start = Instant::now();
                    cpu.gemm(&gemm);
                    start.elapsed().as_secs_f64()
                })
                .collect();
            seconds.sort_by(f64::total_cmp);
            let flops = 2.0 * (tokens * out * inner) as f64 / 1e9;
            println!(
                "  {name:26} median {:7.1} best {:7.1} GFLOP/s of {peak:.1}: {:.1} % / {:.1} %",
                flops / seconds[times / 2],
                flops / seconds[0],
                100.0 * flops / seconds[times / 2] / peak,
                100.0 * flops / seconds[0] / peak,
            );
        }
    }
}
