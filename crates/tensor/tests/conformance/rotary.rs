//! Rotary turns of rows at any positions.

use proptest::prelude::*;
use triax_tensor::{DType, RotaryRows};

use crate::arena::Arena;
use crate::arena::Output;
use crate::bound::U;
use crate::harness::{act, check};

fn run(arena: &mut Arena<'_>, rows: usize, heads: (usize, usize), half: usize, dtype: DType) -> Vec<Output> {
    let (kv_heads, head_dim) = (heads.1, 2 * half);
    let heads = heads.0 * kv_heads;
    let cols = (heads + 2 * kv_heads) * head_dim;
    let angles = |row: usize, i: usize| 0.37 * (row * (i + 1)) as f64;
    let turns: Vec<f64> = (0..9)
        .flat_map(|row| {
            (0..head_dim)
                .map(move |i| if i < half { angles(row, i).cos() } else { angles(row, i - half).sin() })
        })
        .collect();
    let turns = arena.input(DType::F32, 9, head_dim, &turns).view;
    let positions: Vec<u32> = (0..rows as u32).map(|row| row * 5 % 9).collect();
    let positions = arena.ids(&positions);
    let qkv = arena.normal("qkv", dtype, rows, cols, 1.0);
    let op = RotaryRows { qkv: qkv.view, heads, kv_heads, head_dim, turns, positions };
    arena.device.rotary_rows(&op);
    // Two products and a sum, each rounded once.
    let largest = |row: usize| qkv.row(row).iter().fold(0.0f64, |m, x| m.max(x.abs()));
    vec![Output::new("qkv", qkv.view, |row, _| 4.0 * U * largest(row))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn turns_agree_with_the_reference(
        rows in 1usize..40, group in 1usize..4, kv_heads in 1usize..3, half in 1usize..20, dtype in act()
    ) {
        check(1 << 20, &[], |arena| run(arena, rows, (group, kv_heads), half, dtype));
    }
}
