//! log10 of the probability that a KenLM model gives each line of standard input, its beginning and end counted; a tab,
//! the line. golden/curation/kenlm_models.py score prints the same with kenlm.
//!
//! ```text
//! cargo run --release -p triax-curate --example perplexity -- zh_CN.lm < sentences.txt
//! ```

use std::path::PathBuf;

use triax_curate::kenlm::Model;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path: PathBuf = std::env::args_os().nth(1).ok_or("the path of a model is needed")?.into();
    let model = Model::open(&path)?;
    for line in std::io::stdin().lines() {
        let line = line?;
        println!("{:.6}\t{line}", model.sentence(&line).0);
    }
    Ok(())
}
