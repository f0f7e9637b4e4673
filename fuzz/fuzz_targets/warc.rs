//! The reader of web archives; the ordinary tests replay their seeds in crates/curate/src/readers/archive/tests.rs.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| triax_curate::readers::fuzz_warc(bytes));
