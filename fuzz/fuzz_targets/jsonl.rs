//! The reader of JSON lines; seeds: crates/curate/corpus/jsonl.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| triax_curate::readers::fuzz_jsonl(bytes));
