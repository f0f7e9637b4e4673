//! What becomes of the members of clusters: the second pass that whole-document steps share.

use super::rows::RowsByDocument;
use crate::document::Document;
use crate::global::{Decide, Decision, GlobalError, Member};
use crate::step::Reason;
use std::path::{Path, PathBuf};

/// Where [`Members`] expects its rows.
pub(super) fn members_path(out: &Path) -> PathBuf {
    out.join("members.run")
}

/// Removes the members that do not survive; the survivor learns how many documents it stands for, as FineWeb-2 needs it to
/// weigh by the number of copies.
pub(super) struct Members {
    rows: RowsByDocument<Member>,
    label: &'static str,
    /// Metadata key for the size of the cluster.
    size_key: &'static str,
}

impl Members {
    pub(super) fn open(
        out: &Path,
        first: u64,
        label: &'static str,
        size_key: &'static str,
    ) -> Result<Self, GlobalError> {
        Ok(Self { rows: RowsByDocument::open(&members_path(out), first)?, label, size_key })
    }
}

impl Decide for Members {
    fn decide(&mut self, number: u64, document: &mut Document) -> Result<Decision, GlobalError> {
        let Some(row) = self.rows.next_of(number)? else {
            return Ok(Decision::Keep);
        };
        if row.survivor == number {
            document.metadata.insert(self.size_key.to_owned(), row.size.into());
            return Ok(Decision::Keep);
        }
        let detail = format!("copy of document {}", row.survivor);
        Ok(Decision::Remove(Reason::measured(self.label, detail)))
    }
}
