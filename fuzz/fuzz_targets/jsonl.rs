//! The reader of JSON lines; the ordinary tests replay their seeds in crates/curate/tests/hostile.rs.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| triax_curate::readers::fuzz_jsonl(bytes));
