//! Rows as columns of Parquet files and back. A field of 16 bytes becomes two columns, NAME_high and NAME_low, since
//! the widest number of Parquet has eight.

use crate::global::GlobalError;
use crate::runs::{Record, RunReader};
use datafusion::arrow::array::{Array, ArrayRef, RecordBatch, UInt16Array, UInt32Array, UInt64Array};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use datafusion::parquet::basic::Compression;
use datafusion::parquet::file::properties::WriterProperties;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use triax_data::AtomicFile;

/// Rows written or read at a time.
const BATCH: usize = 1 << 16;
/// Bytes read from a run at a time.
const BUFFER: usize = 1 << 18;

/// One column of a record type.
struct Column {
    name: String,
    /// In the encoded record.
    offset: usize,
    /// 2, 4 or 8.
    width: usize,
}

impl Column {
    fn kind(&self) -> DataType {
        match self.width {
            2 => DataType::UInt16,
            4 => DataType::UInt32,
            _ => DataType::UInt64,
        }
    }

    /// Of encoded records.
    fn values(&self, rows: &[u8], row: usize) -> ArrayRef {
        let fields = rows.chunks_exact(row).map(|row| &row[self.offset..self.offset + self.width]);
        match self.width {
            2 => Arc::new(UInt16Array::from_iter_values(fields.map(|field| number(field) as u16))),
            4 => Arc::new(UInt32Array::from_iter_values(fields.map(|field| number(field) as u32))),
            _ => Arc::new(UInt64Array::from_iter_values(fields.map(number))),
        }
    }
}

fn number(field: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes[..field.len()].copy_from_slice(field);
    u64::from_le_bytes(bytes)
}

fn columns<R: Record>() -> Vec<Column> {
    let (mut columns, mut offset) = (Vec::new(), 0);
    for &(name, width) in R::FIELDS {
        if width == 16 {
            // Little-endian: the low half comes first.
            columns.push(Column { name: format!("{name}_low"), offset, width: 8 });
            columns.push(Column { name: format!("{name}_high"), offset: offset + 8, width: 8 });
        } else {
            columns.push(Column { name: name.to_owned(), offset, width });
        }
        offset += width;
    }
    columns
}

fn schema(columns: &[Column]) -> SchemaRef {
    let fields = columns.iter().map(|column| Field::new(&column.name, column.kind(), false));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn fault(path: &Path, error: impl std::fmt::Display) -> GlobalError {
    GlobalError::Input { path: path.to_owned(), message: error.to_string() }
}

/// Rows that a column is written and read in at a time.
const GROUP: usize = 1 << 16;

/// Hashes are as random as numbers can be: dictionaries of them are larger than they are.
pub(super) fn properties() -> WriterProperties {
    WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_dictionary_enabled(false)
        .set_max_row_group_row_count(Some(GROUP))
        .set_created_by("triax".to_owned())
        .build()
}

/// Writes the records of a run to a Parquet file, whole or not at all, and says how many there are.
pub(super) fn write<R: Record>(run: &Path, path: &Path) -> Result<u64, GlobalError> {
    let columns = columns::<R>();
    let schema = schema(&columns);
    let file = AtomicFile::create(path).map_err(|error| fault(path, error))?;
    let mut writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties()))
        .map_err(|error| fault(path, error))?;
    let mut reader = RunReader::<R>::open(run, BUFFER)?;
    let (mut rows, mut count) = (Vec::with_capacity(BATCH * R::SIZE), 0);
    loop {
        rows.clear();
        while rows.len() < BATCH * R::SIZE
            && let Some(record) = reader.next().transpose()?
        {
            let start = rows.len();
            rows.resize(start + R::SIZE, 0);
            record.encode(&mut rows[start..]);
        }
        if rows.is_empty() {
            break;
        }
        count += (rows.len() / R::SIZE) as u64;
        let values = columns.iter().map(|column| column.values(&rows, R::SIZE)).collect();
        RecordBatch::try_new(Arc::clone(&schema), values)
            .map_err(|error| fault(path, error))
            .and_then(|batch| writer.write(&batch).map_err(|error| fault(path, error)))?;
    }
    let file = writer.into_inner().map_err(|error| fault(path, error))?;
    file.commit().map_err(|error| fault(path, error))?;
    Ok(count)
}

/// Rows in a Parquet file, by its footer.
pub(super) fn count(path: &Path) -> Result<u64, GlobalError> {
    let file = File::open(path).map_err(|error| GlobalError::io("open", path, error))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| fault(path, error))?;
    let rows = reader.metadata().file_metadata().num_rows();
    u64::try_from(rows).map_err(|_| fault(path, format!("its footer counts {rows} rows")))
}

/// Hands over the records of a Parquet file that has a column for every field, of any width that holds its values, and
/// says how many there are.
pub(super) fn read<R: Record>(
    path: &Path,
    see: &mut dyn FnMut(R) -> Result<(), GlobalError>,
) -> Result<u64, GlobalError> {
    let columns = columns::<R>();
    let file = File::open(path).map_err(|error| GlobalError::io("open", path, error))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .and_then(|builder| builder.with_batch_size(BATCH).build())
        .map_err(|error| fault(path, error))?;
    let (mut rows, mut count) = (Vec::new(), 0);
    for batch in reader {
        let batch = batch.map_err(|error| fault(path, error))?;
        rows.clear();
        rows.resize(batch.num_rows() * R::SIZE, 0);
        for column in &columns {
            let found = batch
                .column_by_name(&column.name)
                .ok_or_else(|| fault(path, format!("it has no column {}", column.name)))?;
            let exact = CastOptions { safe: false, ..CastOptions::default() };
            // A 64-bit number holds the values of all columns that plans make.
            let values = cast_with_options(found, &DataType::UInt64, &exact)
                .map_err(|error| fault(path, format!("column {}: {error}", column.name)))?;
            let values = values
                .as_any()
                .downcast_ref::<UInt64Array>()
                .filter(|values| values.null_count() == 0)
                .ok_or_else(|| fault(path, format!("column {} has rows without a value", column.name)))?;
            for (row, &value) in rows.chunks_exact_mut(R::SIZE).zip(values.values()) {
                if column.width < 8 && value >> (8 * column.width) != 0 {
                    let message =
                        format!("column {}: {value} takes more than {} bytes", column.name, column.width);
                    return Err(fault(path, message));
                }
                row[column.offset..column.offset + column.width]
                    .copy_from_slice(&value.to_le_bytes()[..column.width]);
            }
        }
        count += batch.num_rows() as u64;
        rows.chunks_exact(R::SIZE).try_for_each(|row| see(R::decode(row)))?;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::{Sorter, record};

    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Row {
        key: u128,
        rank: u16,
        worse: u32,
        document: u64,
    }
    record!(Row, b"colt", key: u128, rank: u16, worse: u32, document: u64);

    /// Has fields of [`Row`]'s names, one of them narrower.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Part {
        document: u32,
        rank: u16,
    }
    record!(Part, b"colp", document: u32, rank: u16);

    fn written(rows: &[Row]) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let (run, path) = (folder.path().join("rows.run"), folder.path().join("rows.parquet"));
        let mut sorter = Sorter::new(folder.path(), "rows", 1 << 20);
        rows.iter().for_each(|&row| sorter.push(row).unwrap());
        sorter.write(&run).unwrap();
        assert_eq!(write::<Row>(&run, &path).unwrap(), rows.len() as u64);
        assert_eq!(count(&path).unwrap(), rows.len() as u64);
        (folder, path)
    }

    #[test]
    fn records_come_back_from_columns_as_they_went() {
        let all = (0..BATCH as u64 + 3).map(|n| Row {
            key: u128::from(n) << 64 | 7,
            rank: u16::MAX,
            worse: u32::MAX - 1,
            document: u64::MAX - n,
        });
        let rows: Vec<Row> = all.collect();
        let (_folder, path) = written(&rows);
        let mut back = Vec::new();
        read(&path, &mut |row: Row| {
            back.push(row);
            Ok(())
        })
        .unwrap();
        assert_eq!(back, rows);
    }

    #[test]
    fn no_rows_are_a_file_too_and_values_that_do_not_fit_are_refused() {
        let (_folder, path) = written(&[]);
        assert_eq!(read(&path, &mut |_: Row| unreachable!()).unwrap(), 0);
        let row = Row { key: 1, rank: 2, worse: 3, document: 4 };
        let (_folder, path) = written(&[row]);
        let mut back = Vec::new();
        read(&path, &mut |part: Part| {
            back.push(part);
            Ok(())
        })
        .unwrap();
        assert_eq!(back, [Part { document: 4, rank: 2 }]);
        let (_folder, path) = written(&[Row { document: 1 << 32, ..row }]);
        let error = read(&path, &mut |_: Part| Ok(())).unwrap_err().to_string();
        assert!(error.contains("column document") && error.contains("4294967296"), "{error}");
    }
}
