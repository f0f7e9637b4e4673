//! Extraction of text from pages; seeds: crates/curate/corpus/html.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| triax_curate::extract::fuzz_html(bytes));
