//! One file a subcommand; the demo has a folder of its own.

pub(crate) mod bench_gemm;
pub(crate) mod bench_train;
