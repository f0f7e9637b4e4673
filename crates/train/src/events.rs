//! TensorBoard event files, written by hand.
//!
//! ```text
//! file   = record …                 named events.out.tfevents.<seconds>.<host>…
//! record = length u64 | crc(length) u32 | data | crc(data) u32      little-endian, crc = masked CRC-32C
//! data   = Event, protobuf: 1 wall_time f64, 2 step varint, 3 file_version string,
//!          5 Summary { 1 Value { 1 tag string, 2 simple_value f32 } … }, 7 SessionLog { 1 status varint }
//! ```
//! The first record holds the version `brain.Event:2`. A session start at step s tells TensorBoard to forget what
//! earlier files of the run say about later steps.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// One event file, open for appending.
pub struct EventWriter {
    file: BufWriter<File>,
    path: PathBuf,
    event: Vec<u8>,
    summary: Vec<u8>,
    value: Vec<u8>,
}

impl EventWriter {
    /// A new file in `folder`, for steps after `step`.
    pub fn create(folder: &Path, step: u64) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = format!("events.out.tfevents.{:010}.{:09}.triax", now.as_secs(), now.subsec_nanos());
        let path = folder.join(name);
        let file = BufWriter::new(File::create_new(&path)?);
        let buffer = || Vec::with_capacity(1024);
        let mut writer = Self { file, path, event: buffer(), summary: buffer(), value: buffer() };
        writer.begin(0);
        put_bytes(&mut writer.event, 3, b"brain.Event:2");
        writer.finish()?;
        writer.begin(step);
        const START: u64 = 1;
        writer.value.clear();
        put_varint_field(&mut writer.value, 1, START);
        put_bytes(&mut writer.event, 7, &writer.value);
        writer.finish()?;
        writer.file.flush()?;
        Ok(writer)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One event with a value for each tag. Allocates nothing once the buffers have grown.
    pub fn scalars(&mut self, step: u64, scalars: &[(&str, f32)]) -> io::Result<()> {
        self.begin(step);
        self.summary.clear();
        for (tag, scalar) in scalars {
            self.value.clear();
            put_bytes(&mut self.value, 1, tag.as_bytes());
            put_tag(&mut self.value, 2, 5);
            self.value.extend(scalar.to_le_bytes());
            put_bytes(&mut self.summary, 1, &self.value);
        }
        put_bytes(&mut self.event, 5, &self.summary);
        self.finish()?;
        self.file.flush()
    }

    /// Makes what was written durable.
    pub fn sync(&mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_data()
    }

    fn begin(&mut self, step: u64) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.event.clear();
        put_tag(&mut self.event, 1, 1);
        self.event.extend(now.as_secs_f64().to_le_bytes());
        put_varint_field(&mut self.event, 2, step);
    }

    fn finish(&mut self) -> io::Result<()> {
        let length = (self.event.len() as u64).to_le_bytes();
        self.file.write_all(&length)?;
        self.file.write_all(&masked_crc(&length).to_le_bytes())?;
        self.file.write_all(&self.event)?;
        self.file.write_all(&masked_crc(&self.event).to_le_bytes())
    }
}

/// Protobuf field key; wire types: 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes.
fn put_tag(to: &mut Vec<u8>, field: u64, wire: u64) {
    put_varint(to, field << 3 | wire);
}

fn put_varint_field(to: &mut Vec<u8>, field: u64, value: u64) {
    put_tag(to, field, 0);
    put_varint(to, value);
}

fn put_bytes(to: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_tag(to, field, 2);
    put_varint(to, bytes.len() as u64);
    to.extend_from_slice(bytes);
}

fn put_varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// TFRecord's mask: a CRC of data that holds CRCs must not look like one.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), reflected polynomial.
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let mut crc = byte as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
                bit += 1;
            }
            table[byte] = crc;
            byte += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc, &byte| TABLE[(crc as u8 ^ byte) as usize] ^ crc >> 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_gives_the_published_values() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    /// The fields of a protobuf message: number, and the varint, the eight or four bytes, or the bytes.
    fn fields(mut message: &[u8]) -> Vec<(u64, Vec<u8>)> {
        fn varint(message: &mut &[u8]) -> u64 {
            let mut value = 0;
            for shift in (0..).step_by(7) {
                let (&byte, rest) = message.split_first().unwrap();
                *message = rest;
                value |= u64::from(byte & 0x7f) << shift;
                if byte < 0x80 {
                    return value;
                }
            }
            unreachable!()
        }
        let mut found = Vec::new();
        while !message.is_empty() {
            let key = varint(&mut message);
            let bytes = match key & 7 {
                0 => varint(&mut message).to_le_bytes().to_vec(),
                wire => {
                    let length = match wire {
                        1 => 8,
                        5 => 4,
                        2 => varint(&mut message) as usize,
                        other => panic!("wire type {other}"),
                    };
                    let (bytes, rest) = message.split_at(length);
                    message = rest;
                    bytes.to_vec()
                }
            };
            found.push((key >> 3, bytes));
        }
        found
    }

    fn records(mut file: &[u8]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
        while !file.is_empty() {
            let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
            assert_eq!(number(&file[8..12]), masked_crc(&file[..8]));
            let data = &file[12..12 + length];
            assert_eq!(number(&file[12 + length..16 + length]), masked_crc(data));
            found.push(data.to_vec());
            file = &file[16 + length..];
        }
        found
    }

    #[test]
    fn what_is_written_reads_back_as_events() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(folder.path(), 299).unwrap();
        writer.scalars(300, &[("loss", 2.5), ("learning rate", 1e-4)]).unwrap();
        let records = records(&std::fs::read(writer.path()).unwrap());
        assert_eq!(records.len(), 3);
        assert_eq!(fields(&records[0])[2], (3, b"brain.Event:2".to_vec()));
        let start = fields(&records[1]);
        assert_eq!(start[1], (2, 299u64.to_le_bytes().to_vec()));
        assert_eq!(fields(&start[2].1), [(1, 1u64.to_le_bytes().to_vec())]);
        let event = fields(&records[2]);
        assert_eq!(event[1], (2, 300u64.to_le_bytes().to_vec()));
        let values: Vec<_> = fields(&event[2].1).into_iter().map(|(_, value)| fields(&value)).collect();
        assert_eq!(values[0], [(1, b"loss".to_vec()), (2, 2.5f32.to_le_bytes().to_vec())]);
        assert_eq!(values[1], [(1, b"learning rate".to_vec()), (2, 1e-4f32.to_le_bytes().to_vec())]);
    }
}
