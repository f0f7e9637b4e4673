//! The text column of a Parquet file, row by row, without Arrow.

use crate::DataError;
use crate::documents::Flow;
use parquet::column::reader::ColumnReader;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;

/// Rows read at a time.
const ROWS: usize = 256;

/// Calls `each` with row number (from 1) and text, `None` where the column is null, and the compressed bytes passed.
pub(crate) fn read(
    path: &Path,
    column: &str,
    mut each: impl FnMut(u64, Option<Vec<u8>>, u64) -> Flow,
) -> Flow {
    let fault = |error: ParquetError| DataError::Input { path: path.to_owned(), message: error.to_string() };
    let file = File::open(path).map_err(|error| DataError::io("open", path, error))?;
    let reader = SerializedFileReader::new(file).map_err(fault)?;
    let schema = reader.metadata().file_metadata().schema_descr_ptr();
    let is_text = |found: &&parquet::schema::types::ColumnDescPtr| {
        found.path().string() == column
            && found.physical_type() == parquet::basic::Type::BYTE_ARRAY
            && found.max_rep_level() == 0
    };
    let Some(number) = schema.columns().iter().position(|found| is_text(&found)) else {
        let existing =
            schema.columns().iter().map(|c| format!("{} ({})", c.path().string(), c.physical_type()));
        let existing = existing.collect::<Vec<_>>().join(", ");
        return Err(DataError::Column { path: path.to_owned(), column: column.to_owned(), existing });
    };
    let present = schema.column(number).max_def_level();
    let (mut row, mut passed) = (0, 0);
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group).map_err(fault)?;
        let ColumnReader::ByteArrayColumnReader(mut texts) =
            group.get_column_reader(number).map_err(fault)?
        else {
            continue; // the physical type was checked above
        };
        loop {
            let (mut values, mut levels) = (Vec::<ByteArray>::new(), Vec::new());
            let (rows, ..) = texts
                .read_records(ROWS, (present > 0).then_some(&mut levels), None, &mut values)
                .map_err(fault)?;
            if rows == 0 {
                break;
            }
            // A column that may be null gives a level a row and values for the rows at the full level only.
            levels.resize(rows, present);
            let mut values = values.into_iter();
            for level in levels {
                row += 1;
                let text = (level == present).then(|| values.next()).flatten();
                if each(row, text.map(|value| value.data().to_vec()), passed)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        passed += u64::try_from(group.metadata().compressed_size()).unwrap_or(0);
    }
    Ok(ControlFlow::Continue(()))
}
