//! One suite for every device: each operation, on random shapes and contents, against the reference device.
//!
//! ```text
//! case(arena) ──▶ reference ──▶ expected bytes ─┐
//!      └────────▶ device    ──▶ bytes ──────────┴─▶ |difference| ≤ derived bound + storage rounding
//! ```
//!
//! A case lays out its operands, runs one operation and names its outputs with an absolute error bound for
//! each element. The bounds are derived in [`bound`], never tuned. The harness also requires that nothing
//! but the outputs changed, and that 1, 2 and 3 threads give the same bits. [`slices`] requires that a rank
//! which holds a slice of a layer has the bits of that slice.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod arena;
mod attention;
mod bound;
mod elementwise;
mod embedding;
mod gemm;
mod harness;
mod loss;
mod norm;
mod optimizer;
mod quantised;
mod rotary;
mod slices;
