//! From curated documents to the token files that a trainer reads: sources tokenized one by one, then blended and shuffled.
//!
//! ```text
//! documents of a source ──tokenize──▶ source.bin/.idx ─┐
//! documents of a source ──tokenize──▶ source.bin/.idx ─┴─ plan: epochs, keyed order ──▶ blend.bin/.idx
//! ```
//!
//! A trainer can also blend the sources' files itself, sample by sample; a blend on disk is for those that cannot, and for
//! a shuffle of documents.

mod plan;

pub use plan::{BlendPlan, PlanError, Portion, Share, Size};

use std::path::{Path, PathBuf};
use triax_data::{DataError, Reader, Writer, Written};

/// A tokenized source.
#[derive(Clone, Debug, PartialEq)]
pub struct BlendSource {
    pub name: String,
    /// Path without `.bin` and `.idx`.
    pub prefix: PathBuf,
    pub share: Share,
}

#[derive(Debug, thiserror::Error)]
pub enum BlendError {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error("blend: {0}")]
    Plan(#[from] PlanError),
    #[error("{path} was written without a tokenizer's identity beside it; tokenize the source again")]
    NoIdentity { path: PathBuf },
}

/// Writes a blend of tokenized sources to `prefix.bin` and `prefix.idx`, its documents in the keyed order of `seed`.
/// `tokens`: of the whole blend, where shares are weights. `progress` learns how many documents are written.
///
/// # Errors
/// When shares make no sense, a file cannot be read, sources were made by different tokenizers, or the disk is full. Then
/// nothing is left behind and an older pair of that name is as it was.
pub fn write_blend(
    sources: &[BlendSource],
    tokens: Option<u64>,
    seed: u64,
    prefix: &Path,
    mut progress: impl FnMut(u64, u64),
) -> Result<(BlendPlan, Written), BlendError> {
    let readers = sources.iter().map(|source| Reader::open(&source.prefix)).collect::<Result<Vec<_>, _>>()?;
    let sizes: Vec<Size> = sources
        .iter()
        .zip(&readers)
        .map(|(source, reader)| Size {
            name: source.name.clone(),
            share: source.share,
            documents: reader.documents(),
            tokens: reader.tokens(),
        })
        .collect();
    let plan = BlendPlan::new(&sizes, tokens, seed)?;
    let first = &readers[0];
    for reader in &readers {
        let (Some(one), Some(other)) = (first.identity(), reader.identity()) else {
            return Err(BlendError::NoIdentity { path: reader.prefix().to_owned() });
        };
        if one.hash != other.hash || one.eod != other.eod {
            return Err(BlendError::Data(DataError::TokenizerMismatch {
                first: first.prefix().to_owned(),
                first_tokenizer: one.short(),
                second: reader.prefix().to_owned(),
                second_tokenizer: other.short(),
            }));
        }
    }
    let mut writer = Writer::create(prefix, first.token_type(), first.identity().cloned())?;
    let all = plan.documents();
    for (done, (source, document)) in plan.order().enumerate() {
        writer.push_document(&readers[source].read_document(document)?)?;
        progress(done as u64 + 1, all);
    }
    let written = writer.finish()?;
    Ok((plan, written))
}

#[cfg(test)]
mod tests {
    use super::*;
    use triax_data::{Identity, TokenType};

    fn identity(hash: &str) -> Identity {
        Identity { name: "test".into(), vocab: 1000, hash: hash.into(), eod: Some(0) }
    }

    fn source(folder: &Path, name: &str, documents: u32, share: Share) -> BlendSource {
        let prefix = folder.join(name);
        let mut writer = Writer::create(&prefix, TokenType::U16, Some(identity("one"))).unwrap();
        let base = u32::from(name.as_bytes()[0]);
        (0..documents).for_each(|n| writer.push_document(&[base, n + 1, 0]).unwrap());
        writer.finish().unwrap();
        BlendSource { name: name.into(), prefix, share }
    }

    fn read(prefix: &Path) -> Vec<Vec<u32>> {
        let reader = Reader::open(prefix).unwrap();
        (0..reader.documents()).map(|document| reader.read_document(document).unwrap()).collect()
    }

    #[test]
    fn a_blend_holds_whole_documents_as_often_as_the_plan_says() {
        let folder = tempfile::tempdir().unwrap();
        let sources = [
            source(folder.path(), "a", 40, Share::Weight(3.0)),
            source(folder.path(), "b", 40, Share::Weight(1.0)),
        ];
        let prefix = folder.path().join("blend");
        let (plan, written) = write_blend(&sources, Some(240), 5, &prefix, |_, _| ()).unwrap();
        assert_eq!(plan.portions.iter().map(|portion| portion.drawn).collect::<Vec<_>>(), [60, 20]);
        assert_eq!((written.documents, written.tokens), (80, 240));
        let blended = read(&prefix);
        let from_a = blended.iter().filter(|document| document[0] == u32::from(b'a')).count();
        assert_eq!(from_a, 60);
        let (bin, again) =
            (std::fs::read(prefix.with_extension("bin")).unwrap(), folder.path().join("again"));
        write_blend(&sources, Some(240), 5, &again, |_, _| ()).unwrap();
        assert_eq!(std::fs::read(again.with_extension("bin")).unwrap(), bin);
    }

    #[test]
    fn sources_of_two_tokenizers_are_refused_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let one = source(folder.path(), "a", 3, Share::Epochs(1.0));
        let prefix = folder.path().join("c");
        let mut writer = Writer::create(&prefix, TokenType::U16, Some(identity("two"))).unwrap();
        writer.push_document(&[1, 0]).unwrap();
        writer.finish().unwrap();
        let other = BlendSource { name: "c".into(), prefix, share: Share::Epochs(1.0) };
        let out = folder.path().join("blend");
        let error = write_blend(&[one, other], None, 1, &out, |_, _| ()).unwrap_err();
        assert!(error.to_string().contains("must share a tokenizer"), "{error}");
        assert!(!out.with_extension("bin").exists());
    }
}
