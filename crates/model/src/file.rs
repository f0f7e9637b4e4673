//! Writing a file so that it is there whole or not at all.

use crate::ModelError;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

/// Writes under a temporary name, syncs, renames; removes what is left of a failure.
pub(crate) fn write_file(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>, &Path) -> Result<(), ModelError>,
) -> Result<(), ModelError> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let io = |e| ModelError::io(&partial, e);
    let result = (|| {
        let mut file = BufWriter::new(File::create(&partial).map_err(io)?);
        write(&mut file, &partial)?;
        file.into_inner().map_err(|e| io(e.into_error()))?.sync_all().map_err(io)?;
        fs::rename(&partial, path).map_err(|e| ModelError::io(path, e))
    })();
    if result.is_err() {
        // The error that matters is the one above; the file may not even exist.
        let _ = fs::remove_file(&partial);
    }
    result
}
