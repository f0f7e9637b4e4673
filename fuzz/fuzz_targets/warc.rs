//! The reader of crawl archives; seeds: crates/curate/corpus/warc.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| triax_curate::readers::fuzz_warc(bytes));
