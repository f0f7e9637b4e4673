//! After one step to warm up, a training step allocates nothing on the heap.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use triax_model::{MicroBatch, Network, Options, Rank, Shared, TensorSplit};
use triax_spec::model::{Activation, Dropout, Init, Mask, Model, NormKind, Positions};
use triax_spec::run::Recompute;
use triax_tensor::cpu::{Cpu, Kernel};
use triax_tensor::{DType, Device, Table};

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call is handed to the system allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_step_allocates_nothing_after_the_first() {
    let model = Model {
        layers: 2,
        hidden: 32,
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        ffn: 64,
        vocab: 50,
        sequence: 16,
        norm: NormKind::Layer,
        norm_eps: 1e-5,
        activation: Activation::Gelu,
        positions: Positions::Rotary { base: 1e4 },
        bias: true,
        tied: true,
        mask: Mask::Causal,
        dropout: Dropout { embedding: 0.1, attention: 0.1, hidden: 0.1 },
        init: Init { std: 0.02, scale_outputs: true },
    };
    for dtype in [DType::F32, DType::Bf16] {
        for recompute in [Recompute::None, Recompute::Selective, Recompute::Full] {
            let options = Options {
                dtype,
                sequence: 16,
                micro_batch: 2,
                micro_batches: 2,
                recompute,
                tensor_shards: 8,
                loss_chunk: 20,
                seed: 1,
                training: true,
                tensor: TensorSplit::WHOLE,
                deferred: false,
                shared: Shared::default(),
            };
            let mut device = Cpu::new(2, Kernel::Auto).unwrap();
            let mut table = Table::new();
            let mut network = Network::plan(&model, &options, &device, &mut table).unwrap();
            device.allocate(table.bytes(), network.scratch_bytes(&device)).unwrap();
            network.initialise(&mut device, 1);
            let tokens: Vec<u32> = (0..32).collect();
            let mut step = || {
                network.pack_weights(&mut device);
                network.begin_step(&mut device);
                for first_sample in [0, 2] {
                    let batch = MicroBatch { tokens: &tokens, targets: &tokens, prefix: None, first_sample };
                    network
                        .forward_backward(&mut Rank::alone(&mut device), &batch, 1.0 / 64.0, &mut ())
                        .unwrap();
                }
                network.finish_group(&mut Rank::alone(&mut device)).unwrap();
                network.losses(&device).iter().sum::<f64>()
            };
            step();
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            let result = step();
            let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
            assert_eq!(allocations, 0, "{dtype} {recompute:?}");
            assert!(result.is_finite());
        }
    }
}
