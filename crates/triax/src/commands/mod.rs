//! One file a subcommand; the demo has a folder of its own.

pub(crate) mod bench_curate;
pub(crate) mod bench_decode;
mod bench_dedup;
pub(crate) mod bench_gemm;
pub(crate) mod bench_tokenize;
pub(crate) mod bench_train;
pub(crate) mod cluster;
pub(crate) mod curate;
pub(crate) mod eval;
mod eval_during;
pub(crate) mod generate;
pub(crate) mod gguf;
pub(crate) mod hugging_face;
pub(crate) mod plan;
pub(crate) mod serve;
pub(crate) mod tokenize;
pub(crate) mod train;
pub(crate) mod verify;
