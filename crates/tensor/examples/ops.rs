//! Milliseconds of the CPU device's operations at the sizes of GPT-2 124M: `cargo run --release --example ops`.
//! The least of several runs, so that a busy machine disturbs little.

use triax_tensor::cpu::{Cpu, Kernel};
use triax_tensor::philox::Stream;
use triax_tensor::*;

const HIDDEN: usize = 768;
const TOKENS: usize = 1024;

struct Bench {
    cpu: Cpu,
    table: Table,
}

impl Bench {
    fn view(&mut self, dtype: DType, rows: usize, cols: usize) -> View {
        self.table.add("", Class::Workspace, dtype, rows, cols)
    }

    /// Allocates what was asked for, with normal values in the f32 and act views.
    fn start(&mut self, scratch: usize, views: &[View]) {
        self.cpu.allocate(self.table.bytes(), scratch).expect("memory for the views");
        for &view in views {
            if view.dtype == DType::F32 {
                self.cpu.fill_normal(view, Stream::named(1, "x"), 0, 0.0, 1.0);
            } else {
                let values: Vec<half::bf16> = (0..view.len())
                    .map(|i| half::bf16::from_f32(Stream::named(1, "x").uniform(i as u64) * 4.0 - 2.0))
                    .collect();
                self.cpu.upload_slice(view, &values);
            }
        }
    }

    fn time(&mut self, name: &str, mut op: impl FnMut(&mut Cpu)) {
        let mut least = f64::INFINITY;
        for _ in 0..15 {
            let start = std::time::Instant::now();
            op(&mut self.cpu);
            least = least.min(start.elapsed().as_secs_f64());
        }
        println!("{:>9.3} ms  {name}", least * 1e3);
    }
}

fn bench(threads: usize) -> Bench {
    let cpu = Cpu::new(threads, Kernel::Auto).expect("a kernel");
    Bench { cpu, table: Table::new() }
}

fn main() {
    let threads = std::env::args().nth(1).map_or(0, |n| n.parse().expect("a number of threads"));
    println!("{}", bench(threads).cpu.describe());
    for (batch, seq) in [(4, 256), (1, 1024)] {
        attention(&mut bench(threads), batch, seq);
    }
    rows(&mut bench(threads));
    loss(&mut bench(threads));
    optimizer(&mut bench(threads));
}

fn attention(b: &mut Bench, batch: usize, seq: usize) {
    let (heads, head_dim) = (12, 64);
    let shape = AttentionShape {
        batch,
        seq,
        heads,
        kv_heads: heads,
        head_dim,
        scale: 0.125,
        mask: Mask::Causal,
        dropout: None,
    };
    let (qkv, d_qkv) = (b.view(DType::Bf16, TOKENS, 3 * HIDDEN), b.view(DType::Bf16, TOKENS, 3 * HIDDEN));
    let (out, d_out) = (b.view(DType::Bf16, TOKENS, HIDDEN), b.view(DType::Bf16, TOKENS, HIDDEN));
    let lse = b.view(DType::F32, TOKENS, heads);
    let scratch = b.cpu.scratch_bytes(Need::Attention(shape));
    b.start(scratch, &[qkv, d_out]);
    b.time(&format!("attention {batch} x {seq}"), |cpu| cpu.attention(&shape, qkv, out, lse));
    b.time(&format!("attention backward {batch} x {seq}"), |cpu| {
        cpu.attention_backward(&shape, d_out, qkv, out, lse, d_qkv);
    });
    let stream = Stream::named(1, "dropout");
    let dropout = Some(Dropout { rate: 0.1, stream, first_row: 0, first_col: 0, cols_total: heads as u64 });
    let shape = AttentionShape { dropout, ..shape };
    b.time(&format!("attention {batch} x {seq} with dropout"), |cpu| cpu.attention(&shape, qkv, out, lse));
}

fn rows(b: &mut Bench) {
    let act: Vec<View> = (0..4).map(|_| b.view(DType::Bf16, TOKENS, HIDDEN)).collect();
    let (wide, wide_out) = (b.view(DType::Bf16, TOKENS, 4 * HIDDEN), b.view(DType::Bf16, TOKENS, 4 * HIDDEN));
    let half = b.view(DType::Bf16, TOKENS, 2 * HIDDEN);
    let (weight, bias) = (b.view(DType::F32, 1, HIDDEN), b.view(DType::F32, 1, HIDDEN));
    let (d_weight, d_bias) = (b.view(DType::F32, 8, HIDDEN), b.view(DType::F32, 8, HIDDEN));
    let (stats, sums) = (b.view(DType::F32, TOKENS, 2), b.view(DType::F32, 1, 4 * HIDDEN));
    let scratch = b.cpu.scratch_bytes(Need::Rows { tokens: TOKENS, cols: HIDDEN });
    b.start(scratch, &[act[0], act[1], act[2], weight, bias, wide]);
    let add = ResidualAdd { x: act[0], value: act[1], bias: Some(bias), dropout: None, out: act[2] };
    b.time("residual", |cpu| cpu.add_residual(&add));
    let kind = NormKind::Layer;
    let norm = Norm { kind, x: act[0], weight, bias: Some(bias), out: act[3], stats, eps: 1e-5 };
    b.time("layer norm", |cpu| cpu.norm(&norm));
    let backward = NormBackward {
        kind,
        d_out: act[1],
        x: act[0],
        stats,
        weight,
        d_residual: Some(act[3]),
        d_x: act[3],
        d_weight,
        d_bias: Some(d_bias),
    };
    b.time("layer norm backward", |cpu| cpu.norm_backward(&backward));
    b.time("gelu of 1024 x 3072", |cpu| cpu.gelu(wide, wide_out));
    b.time("swiglu to 1024 x 1536", |cpu| cpu.silu_mul(wide, half));
    b.time("swiglu backward", |cpu| cpu.silu_mul_backward(half, wide, wide_out));
    b.time("column sums of 1024 x 3072", |cpu| cpu.column_sums(wide, sums));
    let stream = Stream::named(1, "dropout");
    let dropout = Dropout { rate: 0.1, stream, first_row: 0, first_col: 0, cols_total: HIDDEN as u64 };
    b.time("dropout of 1024 x 768", |cpu| cpu.dropout(act[0], &dropout, act[1]));
    let rotary = Rotary {
        qkv: wide.flat_range(0, TOKENS * 3 * HIDDEN).reshape(TOKENS, 3 * HIDDEN),
        heads: 12,
        kv_heads: 12,
        head_dim: 64,
        base: 1e4,
        seq: 256,
        first_position: 0,
        inverse: false,
    };
    b.time("rotary of 4 x 256, 12 x 64", |cpu| cpu.rotary(&rotary));
}

fn loss(b: &mut Bench) {
    let (tokens, vocab) = (512, 50_304);
    let logits = b.view(DType::Bf16, tokens, vocab);
    let (lse, targets) = (b.view(DType::F32, tokens, 1), b.view(DType::U32, 1, tokens));
    b.start(0, &[logits]);
    let op = CrossEntropyGradient { logits, lse, targets, vocab_start: 0, scale: 1.0 };
    b.time("cross-entropy gradient of 512 x 50304", |cpu| cpu.cross_entropy_gradient(&op));
}

fn optimizer(b: &mut Bench) {
    let count = 16 << 20;
    let [weight, grad, m, v] = std::array::from_fn(|_| b.view(DType::F32, 1, count));
    let (narrow, squares) = (b.view(DType::Bf16, 1, count), b.view(DType::F64, 1, count / 1024));
    b.start(0, &[]);
    b.cpu.fill(grad, 0.5);
    let step = AdamW {
        weight,
        grad,
        m,
        v,
        learning_rate: 1e-4,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        step: 3,
        grad_scale: 1.0,
    };
    b.time("adamw of 16 Mi", |cpu| cpu.adamw(&step));
    b.time("squares of the rows of 16 Mi", |cpu| cpu.row_squares(grad.reshape(count / 1024, 1024), squares));
    b.time("cast of 16 Mi to bf16", |cpu| cpu.cast(weight, narrow));
    b.time("clear of 16 Mi f32", |cpu| cpu.clear(grad));
}
