//! Decided rows, document by document: what second passes read while documents go by.

use crate::global::{GlobalError, Member};
use crate::runs::{Record, RunReader};
use std::path::Path;

const BUFFER: usize = 1 << 16;

/// A row that is about one document; the document's number is what rows are sorted by first.
pub(super) trait OfDocument: Record {
    fn document(&self) -> u64;
}

impl OfDocument for Member {
    fn document(&self) -> u64 {
        self.document
    }
}

/// A run of such rows, read forward.
pub(super) struct RowsByDocument<R> {
    rows: RunReader<R>,
    next: Option<R>,
}

impl<R: OfDocument> RowsByDocument<R> {
    /// From the rows of document `first` on.
    pub(super) fn open(path: &Path, first: u64) -> Result<Self, GlobalError> {
        let mut rows = RunReader::open(path, BUFFER)?;
        if first > 0 {
            rows.seek(|row: &R| row.document() < first)?;
        }
        let next = rows.next().transpose()?;
        Ok(Self { rows, next })
    }

    /// The next row of a document; rows of those before it are passed over. Numbers come rising.
    pub(super) fn next_of(&mut self, document: u64) -> Result<Option<R>, GlobalError> {
        while let Some(row) = self.next.filter(|row| row.document() <= document) {
            self.next = self.rows.next().transpose()?;
            if row.document() == document {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::RunWriter;

    #[test]
    fn every_document_gets_its_rows_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.run");
        let mut writer = RunWriter::create(&path).unwrap();
        let row = |document, survivor| Member { document, survivor, size: 0 };
        for (document, survivor) in [(1, 0), (3, 0), (3, 1), (3, 2), (8, 1)] {
            writer.push(row(document, survivor)).unwrap();
        }
        writer.finish().unwrap();
        for (first, asked, expected) in [
            (0, vec![0, 1, 2, 3, 4, 9], vec![1, 3, 3, 3]),
            (2, vec![8], vec![8]),
            (3, vec![3, 8], vec![3, 3, 3, 8]),
        ] {
            let mut rows = RowsByDocument::<Member>::open(&path, first).unwrap();
            let mut found = Vec::new();
            for document in asked {
                while let Some(row) = rows.next_of(document).unwrap() {
                    found.push(row.document);
                }
            }
            assert_eq!(found, expected, "from {first}");
        }
    }
}
