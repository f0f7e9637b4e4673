//! The reader of checkpoint manifests; seeds: crates/train/corpus.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| triax_train::checkpoint::fuzz_manifest(bytes));
