//! Copies of documents, of their lines and of stretches of their text, found over the whole corpus.
//!
//! | step | equal are | what goes |
//! |---|---|---|
//! | [`ExactDedup`] | texts, or addresses | all copies but one |
//! | [`LineDedup`] | lines or paragraphs, normalised | all later copies of the line |
//! | [`MinHashDedup`] | documents whose shingles mostly agree | all of a cluster but one |
//! | [`SubstringDedup`] | stretches of 100 bytes | all copies of the stretch but one |
//!
//! Which copy stays is decided by [`Standing`](crate::Standing) (priority of its source, quality) and then by document number.

mod exact;
mod lines;
mod members;
mod minhash;
mod relations;
mod rows;
mod substring;

pub use exact::{ExactDedup, ExactKey};
pub use lines::{LineDedup, LineUnit};
pub use minhash::{MinHashDedup, Normalizer, Segmenter, ShingleHash, ShingleUnit, Shingler, Signer};
pub use substring::SubstringDedup;

pub(crate) use minhash::class;
