//! Copies of documents and of their lines, found over the whole corpus.
//!
//! | step | equal are | what goes |
//! |---|---|---|
//! | [`ExactDedup`] | texts, or addresses | all copies but one |
//! | [`LineDedup`] | lines or paragraphs, normalised | all later copies of the line |
//! | [`MinHashDedup`] | documents whose shingles mostly agree | all of a cluster but one |
//!
//! Which copy stays is decided by [`Standing`](crate::Standing) (priority of its source, quality) and then by document number.

mod exact;
mod lines;
mod members;
mod minhash;

pub use exact::{ExactDedup, ExactKey};
pub use lines::{LineDedup, LineUnit};
pub use minhash::{MinHashDedup, Normalizer, Segmenter, ShingleHash, ShingleUnit, Shingler, Signer};
