//! After the last phase: kept documents of each source to token files, and their blend.
//!
//! ```text
//! tokens/SOURCE.bin/.idx   documents in the order of the corpus
//! tokens/blend.bin/.idx    all sources by weight, shuffled
//! ```

use super::Prepared;
use super::manifest::Manifest;
use crate::CurateError;
use crate::recipe::Tokens;
use crate::tokens::{BlendPlan, BlendSource, Share, write_blend};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use triax_data::{BadDocuments, Reading, Split, Tokenizer, tokenize};

/// What was tokenized.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenSummary {
    pub tokenizer: String,
    pub vocabulary: usize,
    pub sources: Vec<TokenizedSource>,
    pub blend: BlendPlan,
    /// Of the blend.
    pub documents: u64,
    pub tokens: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenizedSource {
    pub name: String,
    pub documents: u64,
    pub tokens: u64,
    pub text_bytes: u64,
}

/// Says that a source is done; written after its pair.
fn marker(run: &Prepared<'_>, source: &str) -> PathBuf {
    run.layout.root.join("work/tokens").join(format!("{source}.json"))
}

/// What a marker holds.
#[derive(Serialize, Deserialize)]
struct Done {
    run: String,
    source: TokenizedSource,
}

pub(super) fn write_tokens(
    run: &Prepared<'_>,
    settings: &Tokens,
    manifest: &Manifest,
) -> Result<TokenSummary, CurateError> {
    let tokenizer = Tokenizer::load(Path::new(&settings.tokenizer))?;
    let folder = run.layout.root.join("tokens");
    let mut sources = Vec::new();
    let mut blended = Vec::new();
    for source in &manifest.sources {
        if source.files.iter().all(|file| file.documents == 0) {
            continue;
        }
        if run.stop.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(CurateError::Interrupted);
        }
        let prefix = folder.join(&source.name);
        let path = marker(run, &source.name);
        let done = std::fs::read(&path).ok().and_then(|json| serde_json::from_slice::<Done>(&json).ok());
        let tokenized = match done {
            Some(done) if done.run == run.id => done.source,
            _ => {
                let inputs: Vec<PathBuf> =
                    source.files.iter().map(|file| run.layout.root.join(&file.path)).collect();
                let reading = Reading { field: "text".into(), split: Split::File, bad: BadDocuments::Refuse };
                let made = tokenize(&inputs, &tokenizer, &prefix, &reading, run.threads, |_| ())?;
                let tokenized = TokenizedSource {
                    name: source.name.clone(),
                    documents: made.documents,
                    tokens: made.tokens,
                    text_bytes: made.text_bytes,
                };
                let done = Done { run: run.id.clone(), source: tokenized.clone() };
                super::write_whole(&path, &serde_json::to_vec(&done).expect("names and numbers are JSON"))?;
                tokenized
            }
        };
        blended.push(BlendSource { name: source.name.clone(), prefix, share: Share::Weight(source.weight) });
        sources.push(tokenized);
    }
    let tokens = (settings.blend_tokens > 0).then_some(settings.blend_tokens);
    let (blend, written) = write_blend(&blended, tokens, settings.seed, &folder.join("blend"), |_, _| ())?;
    Ok(TokenSummary {
        tokenizer: tokenizer.identity().name.clone(),
        vocabulary: tokenizer.vocab(),
        sources,
        blend,
        documents: written.documents,
        tokens: written.tokens,
    })
}
