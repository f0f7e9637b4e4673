//! The reader of run files; seeds: crates/spec/corpus and recipes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| triax_spec::fuzz_run_file(bytes));
