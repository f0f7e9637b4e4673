//! The reader of .idx files; seeds: crates/data/corpus/idx.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| triax_data::fuzz_idx(bytes));
