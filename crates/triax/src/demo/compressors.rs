//! What general compressors need for a text, in bits per byte: the measure the model is held against.

use crate::failure::Failure;
use lzma_rust2::{XzOptions, XzWriter};
use std::io::Write;

/// `zstd -19`.
pub(crate) fn zstd_bits_per_byte(text: &[u8]) -> Result<f64, Failure> {
    let packed = zstd::bulk::compress(text, 19)
        .map_err(|error| Failure::run(format!("zstd -19 of {} bytes: {error}", text.len())))?;
    Ok(bits_per_byte(packed.len(), text.len()))
}

/// `xz -9`.
pub(crate) fn xz_bits_per_byte(text: &[u8]) -> Result<f64, Failure> {
    let failed = |error: std::io::Error| Failure::run(format!("xz -9 of {} bytes: {error}", text.len()));
    let mut writer = XzWriter::new(Vec::new(), XzOptions::with_preset(9)).map_err(failed)?;
    writer.write_all(text).map_err(failed)?;
    let packed = writer.finish().map_err(failed)?;
    Ok(bits_per_byte(packed.len(), text.len()))
}

fn bits_per_byte(packed: usize, text: usize) -> f64 {
    8.0 * packed as f64 / text.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes given by the command line tools xz 5.4.1 and zstd 1.5 for this very text of 129,987 bytes.
    #[test]
    fn compressors_come_close_to_the_command_line_tools() {
        let text: String = (0..9999).map(|i| format!("line {} of it\n", i % 10)).collect();
        let xz = xz_bits_per_byte(text.as_bytes()).unwrap() * text.len() as f64 / 8.0;
        let zstd = zstd_bits_per_byte(text.as_bytes()).unwrap() * text.len() as f64 / 8.0;
        assert!((xz - 188.0).abs() < 20.0, "xz {xz}");
        assert!((zstd - 63.0).abs() < 10.0, "zstd {zstd}");
    }

    #[test]
    fn random_bytes_cost_eight_bits() {
        let hashed: Vec<u8> =
            (0..2_500u32).flat_map(|i| *blake3::hash(&i.to_le_bytes()).as_bytes()).collect();
        assert!(xz_bits_per_byte(&hashed).unwrap() > 7.99);
        assert!(zstd_bits_per_byte(&hashed).unwrap() > 7.99);
    }
}
