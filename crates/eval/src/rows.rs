//! Items out of data files, and the hash of what was read.
//!
//! Lines end with `\n` and nothing else: texts hold U+2028 and U+0085, which other readers take for line ends.

use crate::error::EvalError;
use crate::race;
use crate::task::{Format, Source, Task};
use crate::template::{Row, plain};
use serde::Serialize;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The items of one data file.
#[derive(Clone, Debug)]
pub struct Rows {
    pub rows: Vec<Row>,
    pub file: DataFile,
    /// Items left out by the task's `skip`.
    pub skipped: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DataFile {
    /// As the task names it.
    pub path: String,
    pub items: usize,
    /// BLAKE3 of the files' bytes, in hexadecimal.
    pub hash: String,
}

/// The first of `sources` that is in `folder`.
///
/// # Errors
/// When none is there, or it is damaged; the message names file and line.
pub fn read(task: &Task, sources: &[Source], folder: &Path) -> Result<Rows, EvalError> {
    let mut tried = Vec::new();
    for source in sources {
        for path in [folder.join(&source.path), folder.join(&task.language).join(&source.path)] {
            if path.exists() {
                let (rows, hash) = read_source(source, &path)?;
                let all = rows.len();
                let rows: Vec<Row> = rows.into_iter().filter(|row| !is_skipped(task, row)).collect();
                let file = DataFile { path: source.path.clone(), items: rows.len(), hash };
                return Ok(Rows { skipped: all - rows.len(), rows, file });
            }
            tried.push(path.display().to_string());
        }
    }
    Err(EvalError::NoData { task: task.name.clone(), tried: tried.join(", ") })
}

fn is_skipped(task: &Task, row: &Row) -> bool {
    task.skip.iter().any(|(field, values)| {
        row.get(field).is_some_and(|value| values.iter().any(|text| *text == plain(value)))
    })
}

fn read_source(source: &Source, path: &Path) -> Result<(Vec<Row>, String), EvalError> {
    let mut hasher = blake3::Hasher::new();
    let mut rows = match source.format {
        Format::Race => race::read(path, &mut hasher)?,
        format => {
            let text = text(path, &mut hasher)?;
            match format {
                Format::Jsonl => jsonl(path, &text)?,
                Format::Tsv => tsv(path, &text)?,
                Format::Csv => csv(path, &text)?,
                Format::Text | Format::Race => vec![Row::from_iter([("text".to_owned(), text.into())])],
            }
        }
    };
    if let Some(labels) = &source.labels {
        let beside = path.parent().unwrap_or(Path::new("")).join(labels);
        let values = text(&beside, &mut hasher)?;
        let values: Vec<&str> = lines(&values).map(|(_, line)| line).collect();
        if values.len() != rows.len() {
            let message =
                format!("{} values for the {} items of {}", values.len(), rows.len(), path.display());
            return Err(EvalError::data(&beside, 0, message));
        }
        for (row, value) in rows.iter_mut().zip(values) {
            row.insert(source.labels_field.clone(), value.into());
        }
    }
    for (new, old) in &source.rename {
        for row in &mut rows {
            if let Some(value) = row.remove(old) {
                row.insert(new.clone(), value);
            }
        }
    }
    Ok((rows, hasher.finalize().to_hex().to_string()))
}

/// The file as text; its bytes go into the hash.
pub(crate) fn text(path: &Path, hasher: &mut blake3::Hasher) -> Result<String, EvalError> {
    let bytes = std::fs::read(path).map_err(|error| EvalError::io("read", path, error))?;
    hasher.update(&bytes);
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
        EvalError::data(path, line, "not UTF-8 text")
    })
}

/// Lines that hold something, numbered from 1, without the `\r` of other systems.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.strip_prefix('\u{feff}')
        .unwrap_or(text)
        .split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line))
        .enumerate()
        .map(|(index, line)| (index + 1, line))
        .filter(|(_, line)| !line.is_empty())
}

fn jsonl(path: &Path, text: &str) -> Result<Vec<Row>, EvalError> {
    lines(text)
        .map(|(line, json)| match serde_json::from_str(json) {
            Ok(Value::Object(row)) => Ok(row),
            Ok(_) => Err(EvalError::data(path, line, "not a JSON object")),
            Err(error) => Err(EvalError::data(path, line, format!("not a JSON object: {error}"))),
        })
        .collect()
}

fn tsv(path: &Path, text: &str) -> Result<Vec<Row>, EvalError> {
    let records = lines(text).map(|(line, text)| (line, text.split('\t').map(str::to_owned).collect()));
    table(path, records)
}

/// RFC 4180: fields in quotes may hold commas, line ends and doubled quotes.
fn csv(path: &Path, text: &str) -> Result<Vec<Row>, EvalError> {
    let mut records: Vec<(usize, Vec<String>)> = Vec::new();
    let (mut record, mut field) = (Vec::new(), String::new());
    let (mut line, mut begin, mut quoted) = (1, 1, false);
    let mut letters = text.strip_prefix('\u{feff}').unwrap_or(text).chars().peekable();
    while let Some(letter) = letters.next() {
        line += usize::from(letter == '\n');
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            ',' if !quoted => record.push(std::mem::take(&mut field)),
            '\r' if !quoted && letters.peek() == Some(&'\n') => {}
            '\n' if !quoted => {
                record.push(std::mem::take(&mut field));
                records.push((begin, std::mem::take(&mut record)));
                begin = line;
            }
            letter => field.push(letter),
        }
    }
    if quoted {
        return Err(EvalError::data(path, begin, "a quote opens and does not close"));
    }
    if !field.is_empty() || !record.is_empty() {
        record.push(field);
        records.push((begin, record));
    }
    records.retain(|(_, record)| record.len() > 1 || !record[0].is_empty());
    table(path, records.into_iter())
}

fn table(
    path: &Path,
    mut records: impl Iterator<Item = (usize, Vec<String>)>,
) -> Result<Vec<Row>, EvalError> {
    let Some((_, names)) = records.next() else { return Ok(Vec::new()) };
    records
        .map(|(line, values)| {
            if values.len() == names.len() {
                return Ok(names.iter().cloned().zip(values.into_iter().map(Value::String)).collect());
            }
            let message = format!("{} values, but the first line names {}", values.len(), names.len());
            Err(EvalError::data(path, line, message))
        })
        .collect()
}

/// The files of a folder and its subfolders that end in `extension`, in the order of their names, numbers by value.
pub(crate) fn files_below(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, EvalError> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).map_err(|error| EvalError::io("list", &folder, error))?;
        for entry in entries {
            let path = entry.map_err(|error| EvalError::io("list", &folder, error))?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                files.push(path);
            }
        }
    }
    let number = |path: &PathBuf| path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
    files.sort_by_cached_key(|path| (path.parent().map(Path::to_owned), number(path), path.clone()));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> &'static Path {
        Path::new("data")
    }

    #[test]
    fn only_a_newline_ends_a_line_of_json() {
        let text = "{\"a\": \"x\u{2028}y\u{85}z\"}\r\n\n{\"a\": 2}";
        let rows = jsonl(path(), text).unwrap();
        assert_eq!((rows.len(), rows[0]["a"].as_str()), (2, Some("x\u{2028}y\u{85}z")));
        let error = jsonl(path(), "{}\n\n{\"a\": }").unwrap_err().to_string();
        assert!(error.starts_with("data:3: not a JSON object"), "{error}");
    }

    #[test]
    fn quotes_commas_and_line_ends_in_quoted_fields_are_text() {
        let rows = csv(path(), "a,b\r\n\"x, \"\"y\"\"\nz\",2\n,\n").unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0]["a"].as_str(), rows[0]["b"].as_str()), (Some("x, \"y\"\nz"), Some("2")));
        assert_eq!(rows[1]["b"].as_str(), Some(""));
        assert!(csv(path(), "a\n\"x").unwrap_err().to_string().contains("does not close"));
    }

    #[test]
    fn a_row_with_too_few_values_is_refused_by_line() {
        let error = tsv(path(), "a\tb\n1\t2\n3\n").unwrap_err().to_string();
        assert_eq!(error, "data:3: 1 values, but the first line names 2");
        let error = csv(path(), "a,b\n\"1\n\",2\n3\n").unwrap_err().to_string();
        assert_eq!(error, "data:4: 1 values, but the first line names 2");
    }
}
