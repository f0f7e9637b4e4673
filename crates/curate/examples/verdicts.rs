//! What the filters say of documents: JSON lines with `text` on standard input, one JSON object of labels a document on
//! standard output, the time of the whole chain on standard error. golden/curation/agreement.py compares it with
//! datatrove.
//!
//! ```text
//! cargo run --release -p triax-curate --example verdicts -- crawl-en < documents.jsonl > verdicts.jsonl
//! ```

use std::io::{BufRead as _, Write as _};
use std::time::Instant;

use triax_curate::{Document, Scratch, Verdict, filters};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "crawl-en".to_owned());
    let chain = filters::chain(&name)?;
    let mut documents = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let fields: serde_json::Value = serde_json::from_str(&line?)?;
        let text = fields["text"].as_str().ok_or("a line without `text`")?.to_owned();
        documents.push(Document { text, ..Document::default() });
    }
    let mut scratch = Scratch::default();
    // The first pass fills caches and buffers, and gives each filter the document as it came.
    let mut output = std::io::stdout().lock();
    for document in &documents {
        let labels: serde_json::Map<_, _> = chain
            .iter()
            .map(|filter| {
                let mut document = document.clone();
                let verdict = filter.apply(&mut document, &mut scratch);
                (filter.name().to_owned(), label(&verdict).into())
            })
            .collect();
        serde_json::to_writer(&mut output, &labels)?;
        output.write_all(b"\n")?;
    }
    let bytes: usize = documents.iter().map(|document| document.text.len()).sum();
    for pass in 0..3 {
        let mut copies = documents.clone();
        let (start, mut kept) = (Instant::now(), 0);
        for document in &mut copies {
            kept +=
                usize::from(chain.iter().all(|filter| filter.apply(document, &mut scratch) == Verdict::Keep));
        }
        let seconds = start.elapsed().as_secs_f64();
        let speed = bytes as f64 / seconds / 1e6;
        eprintln!(
            "pass {pass}: {kept} of {} kept, {bytes} bytes, {seconds:.3} s, {speed:.2} MB/s",
            copies.len()
        );
    }
    Ok(())
}

fn label(verdict: &Verdict) -> &str {
    match verdict {
        Verdict::Keep => "keep",
        Verdict::Remove(reason) => &reason.label,
    }
}
