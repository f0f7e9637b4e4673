//! Which layers each stage holds: consecutive runs whose costliest is as cheap as can be, the embedding and the
//! output layer counted.
//!
//! Costs are multiply-adds a token, forward: a layer `h · (qkv + heads · head_dim) + mlp + attention over half the
//! sequence`, the output layer `h · V`, the embedding one row (Narayanan et al. 2021 count the same products).

use std::ops::Range;
use triax_spec::Model;
use triax_spec::model::Activation;

/// Multiply-adds of one token's forward pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StageCosts {
    pub layer: f64,
    pub embedding: f64,
    pub head: f64,
}

impl StageCosts {
    pub fn of(model: &Model, sequence: usize) -> Self {
        let h = model.hidden as f64;
        let inner = (model.heads * model.head_dim) as f64;
        let qkv = ((model.heads + 2 * model.kv_heads) * model.head_dim) as f64;
        let products = match model.activation {
            Activation::Gelu => 2.0,
            Activation::Swiglu => 3.0,
        };
        Self {
            layer: h * (qkv + inner) + products * h * model.ffn as f64 + inner * sequence as f64,
            embedding: h,
            head: h * model.vocab as f64,
        }
    }
}

/// Cuts `layers` into `runs` non-empty runs, in order. Run r belongs to stage `r % stages`, as its chunk
/// `r / stages`. The earliest of equally good cuts.
pub fn split_layers(layers: usize, runs: usize, costs: StageCosts) -> Vec<Range<usize>> {
    assert!(runs >= 1 && layers >= runs, "{layers} layers in {runs} runs");
    let cost = |run: usize, range: &Range<usize>| {
        let ends =
            if run == 0 { costs.embedding } else { 0.0 } + if run + 1 == runs { costs.head } else { 0.0 };
        range.len() as f64 * costs.layer + ends
    };
    // best[r][n]: the least cost of the costliest of the first r runs over n layers, and where run r begins.
    let mut best = vec![vec![(f64::INFINITY, 0); layers + 1]; runs + 1];
    best[0][0] = (0.0, 0);
    for run in 1..=runs {
        for end in run..=layers - (runs - run) {
            for begin in run - 1..end {
                let (before, _) = best[run - 1][begin];
                let worst = before.max(cost(run - 1, &(begin..end)));
                if worst < best[run][end].0 {
                    best[run][end] = (worst, begin);
                }
            }
        }
    }
    let mut cuts = Vec::with_capacity(runs);
    let mut end = layers;
    for run in (1..=runs).rev() {
        let begin = best[run][end].1;
        cuts.push(begin..end);
        end = begin;
    }
    cuts.reverse();
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(layers: usize, runs: usize, costs: StageCosts) -> Vec<usize> {
        split_layers(layers, runs, costs).iter().map(Range::len).collect()
    }

    #[test]
    fn every_layer_is_in_one_run_and_runs_follow_each_other() {
        let costs = StageCosts { layer: 1.0, embedding: 0.1, head: 2.5 };
        for layers in 1..20 {
            for runs in 1..=layers {
                let cuts = split_layers(layers, runs, costs);
                assert_eq!(cuts.len(), runs);
                assert_eq!(
                    cuts.iter().cloned().flatten().collect::<Vec<_>>(),
                    (0..layers).collect::<Vec<_>>()
                );
                assert!(cuts.iter().all(|cut| !cut.is_empty()));
            }
        }
    }

    #[test]
    fn the_costliest_run_is_as_cheap_as_any_cut_makes_it() {
        let costs = StageCosts { layer: 1.0, embedding: 0.0, head: 3.0 };
        assert_eq!(lengths(12, 2, costs), [7, 5]);
        assert_eq!(lengths(12, 1, costs), [12]);
        assert_eq!(lengths(4, 4, costs), [1, 1, 1, 1]);
        let even = StageCosts { layer: 1.0, embedding: 0.0, head: 0.0 };
        assert_eq!(lengths(105, 35, even), [3; 35]);
    }

    #[test]
    fn gpt2s_output_layer_counts_as_several_of_its_layers() {
        let model = &triax_spec::presets::find("gpt2-124m").unwrap().model;
        let costs = StageCosts::of(model, 256);
        assert!((5.0..6.0).contains(&(costs.head / costs.layer)), "{costs:?}");
        assert_eq!(lengths(12, 2, costs), [9, 3]);
    }
}
