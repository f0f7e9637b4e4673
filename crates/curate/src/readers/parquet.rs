//! The columns of a Parquet file that become documents, row by row, without Arrow.

use super::{Limits, Part, Record, Sink, blank};
use crate::CurateError;
use crate::recipe::Source;
use crate::step::Reason;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use std::fs::File;

/// Rows read at a time.
const ROWS: usize = 256;

pub(super) fn read(part: &Part, source: &Source, limits: &Limits, sink: Sink<'_>) -> Result<(), CurateError> {
    let file = File::open(&part.path).map_err(|error| CurateError::io("open", &part.path, error))?;
    let mut row = 0;
    let damaged = |row: u64, error: ParquetError| Record::Bad {
        document: blank(part, source, row),
        reason: Reason::measured("damaged_file", error),
    };
    let reader = match SerializedFileReader::new(file) {
        Ok(reader) => reader,
        Err(error) => return sink(damaged(row, error), part.bytes),
    };
    let schema = reader.metadata().file_metadata().schema_descr_ptr();
    let column = |name: &str| {
        schema.columns().iter().position(|column| {
            column.path().string() == name
                && column.physical_type() == parquet::basic::Type::BYTE_ARRAY
                && column.max_rep_level() == 0
        })
    };
    let Some(text_column) = column(&source.text_field) else {
        let names: Vec<String> = schema.columns().iter().map(|column| column.path().string()).collect();
        let message = format!(
            "{} has no text column {:?}; its columns are {}",
            part.path.display(),
            source.text_field,
            names.join(", ")
        );
        return Err(CurateError::Source { name: source.name.clone(), message });
    };
    let url_column = column(&source.url_field);
    let level = |column: usize| schema.column(column).max_def_level();
    let mut passed = 0;
    for group in 0..reader.num_row_groups() {
        let opened = reader.get_row_group(group).and_then(|group| {
            let texts = Values::open(&*group, text_column, level(text_column))?;
            let urls = url_column.map(|column| Values::open(&*group, column, level(column))).transpose()?;
            Ok((group, texts, urls))
        });
        let (group, mut texts, mut urls) = match opened {
            Ok(opened) => opened,
            Err(error) => return sink(damaged(row, error), part.bytes),
        };
        loop {
            let batch =
                texts.next().and_then(|texts| Ok((texts, urls.as_mut().map(Values::next).transpose()?)));
            let (texts, urls) = match batch {
                Ok(batch) => batch,
                Err(error) => return sink(damaged(row, error), part.bytes),
            };
            if texts.is_empty() {
                break;
            }
            let mut urls = urls.unwrap_or_default().into_iter();
            for text in texts {
                let mut document = blank(part, source, row);
                row += 1;
                let url = urls.next().flatten();
                document.url = url.and_then(|url| String::from_utf8(url.data().to_vec()).ok());
                let record = match text {
                    None => Record::Bad {
                        document,
                        reason: Reason::measured("no_text_field", &source.text_field),
                    },
                    Some(text) if text.data().len() > limits.record_bytes => {
                        let reason =
                            Reason::measured("record_too_large", format_args!("{} bytes", text.data().len()));
                        Record::Bad { document, reason }
                    }
                    Some(text) => match std::str::from_utf8(text.data()) {
                        Ok(text) => {
                            document.text = text.to_owned();
                            Record::Text(document)
                        }
                        Err(_) => Record::Bad { document, reason: Reason::new("invalid_utf8") },
                    },
                };
                sink(record, passed)?;
            }
        }
        passed += u64::try_from(group.metadata().compressed_size()).unwrap_or(0);
    }
    Ok(())
}

/// One column of one row group.
struct Values {
    reader: ColumnReaderImpl<ByteArrayType>,
    /// Definition level of a value that is there.
    present: i16,
}

impl Values {
    fn open(group: &dyn RowGroupReader, column: usize, present: i16) -> Result<Self, ParquetError> {
        match group.get_column_reader(column)? {
            ColumnReader::ByteArrayColumnReader(reader) => Ok(Self { reader, present }),
            _ => Err(ParquetError::General("the column's type changed between schema and row group".into())),
        }
    }

    /// The next rows; none at the end.
    fn next(&mut self) -> Result<Vec<Option<ByteArray>>, ParquetError> {
        let (mut values, mut levels) = (Vec::<ByteArray>::new(), Vec::new());
        let (rows, ..) =
            self.reader.read_records(ROWS, (self.present > 0).then_some(&mut levels), None, &mut values)?;
        // A column that may be null gives a level a row, and values for the rows at the full level only.
        levels.resize(rows, self.present);
        let mut values = values.into_iter();
        Ok(levels.into_iter().map(|level| (level == self.present).then(|| values.next()).flatten()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::sources::example;
    use super::*;
    use crate::document::Document;
    use crate::writers::ParquetFile;

    #[test]
    fn what_the_parquet_writer_writes_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        let mut file = ParquetFile::create(&path, 3).unwrap();
        for number in 0..1000 {
            let url = (number % 3 == 0).then(|| format!("http://host/{number}"));
            let text = format!("text {number}");
            file.write(&Document {
                id: format!("x#{number}"),
                source: "x".into(),
                url,
                text,
                ..Document::default()
            })
            .unwrap();
        }
        file.finish().unwrap();
        let part = Part { path, ..Part::example("a.parquet") };
        let mut number = 0;
        read(&part, &example("again"), &Limits::default(), &mut |record, _| {
            let Record::Text(document) = record else { panic!("{record:?}") };
            assert_eq!(document.text, format!("text {number}"));
            assert_eq!(document.url.is_some(), number % 3 == 0);
            assert_eq!(document.id, format!("again/a.parquet#{number}"));
            number += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(number, 1000);
    }

    #[test]
    fn a_file_that_is_no_parquet_is_one_damaged_record() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        std::fs::write(&path, b"PAR1 not really PAR1").unwrap();
        let mut labels = Vec::new();
        let part = Part { path, ..Part::example("a.parquet") };
        read(&part, &example("x"), &Limits::default(), &mut |record, _| {
            let Record::Bad { reason, .. } = record else { panic!("{record:?}") };
            labels.push(reason.label);
            Ok(())
        })
        .unwrap();
        assert_eq!(labels, ["damaged_file"]);
    }
}
