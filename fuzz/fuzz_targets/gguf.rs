//! The reader of the heads of GGUF files; seeds: crates/model/corpus/gguf.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| triax_model::gguf::fuzz_gguf(bytes));
