use std::{path::PathBuf, time::Instant};
use triax_data::*;
fn main() {
    let a: Vec<String> = std::env::args().skip(1).collect();
    let inputs: Vec<PathBuf> = vec![a[0].clone().into()];
    let r = Reading::default();
    let t = Instant::now();
    let tok = if std::path::Path::new(&a[1]).exists() {
        Tokenizer::load(a[1].as_ref()).unwrap()
    } else {
        let texts = sample_texts(&inputs, &r, 20 << 20).unwrap();
        let t = Tokenizer::train(TokenizerKind::Bpe, 16384, texts.into_iter()).unwrap();
        t.save(a[1].as_ref()).unwrap();
        t
    };
    println!("train/load {:?}", t.elapsed());
    for threads in [1, 2] {
        let t = Instant::now();
        let d = tokenize(&inputs, &tok, "/work/tmp/datab/out".as_ref(), &r, threads, |_| {}).unwrap();
        let s = t.elapsed().as_secs_f64();
        println!("{threads} threads {:.3}s {:.1} MB/s {d:?}", s, d.text_bytes as f64 / s / 1e6);
    }
}
