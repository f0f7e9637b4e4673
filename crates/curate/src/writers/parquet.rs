//! Parquet with the columns id, source, url, text and metadata (JSON), compressed with zstd.

use super::{Hashed, Written};
use crate::CurateError;
use crate::document::Document;
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SCHEMA: &str = "message document {
    required binary id (utf8); required binary source (utf8); optional binary url (utf8);
    required binary text (utf8); optional binary metadata (json);
}";

/// A row group is closed at one of these.
const ROWS: usize = 20_000;
const BYTES: usize = 64 << 20;

/// Dropped without [`ParquetFile::finish`], it leaves nothing behind.
pub struct ParquetFile {
    path: PathBuf,
    writer: SerializedFileWriter<Hashed>,
    /// By column, none where there is no value.
    rows: [Vec<Option<ByteArray>>; 5],
    bytes: usize,
    documents: u64,
}

impl ParquetFile {
    /// `level`: of zstd.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn create(path: &Path, level: i32) -> Result<Self, CurateError> {
        let file = Hashed::create(path)?;
        let open = || -> Result<SerializedFileWriter<Hashed>, ParquetError> {
            let schema = Arc::new(parse_message_type(SCHEMA)?);
            let compression = Compression::ZSTD(ZstdLevel::try_new(level)?);
            // The program's version would make the same documents different bytes.
            let properties = WriterProperties::builder()
                .set_compression(compression)
                .set_created_by("triax".into())
                .build();
            SerializedFileWriter::new(file, schema, Arc::new(properties))
        };
        let writer = open().map_err(|error| fault(path, &error))?;
        Ok(Self { path: path.to_owned(), writer, rows: Default::default(), bytes: 0, documents: 0 })
    }

    /// # Errors
    /// When the disk fails.
    pub fn write(&mut self, document: &Document) -> Result<(), CurateError> {
        let value = |text: &str| Some(ByteArray::from(text));
        let metadata = (!document.metadata.is_empty())
            .then(|| serde_json::to_string(&document.metadata).expect("a map with string keys is JSON"));
        let row = [
            value(&document.id),
            value(&document.source),
            document.url.as_deref().and_then(value),
            value(&document.text),
            metadata.as_deref().and_then(value),
        ];
        for (column, value) in self.rows.iter_mut().zip(row) {
            self.bytes += value.as_ref().map_or(0, ByteArray::len);
            column.push(value);
        }
        self.documents += 1;
        if self.rows[0].len() >= ROWS || self.bytes >= BYTES {
            self.close_group().map_err(|error| fault(&self.path, &error))?;
        }
        Ok(())
    }

    fn close_group(&mut self) -> Result<(), ParquetError> {
        if self.rows[0].is_empty() {
            return Ok(());
        }
        let mut group = self.writer.next_row_group()?;
        for column in &mut self.rows {
            let mut writer = group.next_column()?.expect("the schema has a column for each of them");
            let levels: Vec<i16> = column.iter().map(|value| i16::from(value.is_some())).collect();
            let values: Vec<ByteArray> = column.drain(..).flatten().collect();
            // Required columns have no levels; the writer ignores them there.
            writer.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None)?;
            writer.close()?;
        }
        group.close()?;
        self.bytes = 0;
        Ok(())
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// When the disk fails; then no file is left.
    pub fn finish(mut self) -> Result<Written, CurateError> {
        self.close_group().map_err(|error| fault(&self.path, &error))?;
        let file = self.writer.into_inner().map_err(|error| fault(&self.path, &error))?;
        file.commit(self.documents)
    }
}

fn fault(path: &Path, error: &ParquetError) -> CurateError {
    CurateError::damaged(path, error)
}
