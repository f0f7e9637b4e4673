//! The head of a GGUF file, read with every length checked against what the file can still hold.

use super::metadata::{Metadata, Value};
use std::collections::HashSet;
use std::io::Read;
use triax_tensor::Coding;

/// Longest head that is believed: the largest vocabularies take some tens of megabytes.
const LONGEST_HEAD: u64 = 1 << 30;
const MAGIC: [u8; 4] = *b"GGUF";

/// How a tensor's elements are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    F32,
    F16,
    Bf16,
    Blocks(Coding),
}

impl Kind {
    fn of(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Blocks(Coding::Q4_0),
            3 => Self::Blocks(Coding::Q4_1),
            8 => Self::Blocks(Coding::Q8_0),
            12 => Self::Blocks(Coding::Q4K),
            14 => Self::Blocks(Coding::Q6K),
            30 => Self::Bf16,
            _ => return None,
        })
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Blocks(coding) => coding.name(),
        }
    }

    /// Elements and bytes of its smallest piece.
    const fn piece(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Blocks(coding) => (coding.block(), coding.block_bytes()),
        }
    }
}

/// Names of types that are not read, for messages.
fn type_name(number: u32) -> String {
    let known = [
        (6, "Q5_0"),
        (7, "Q5_1"),
        (9, "Q8_1"),
        (10, "Q2_K"),
        (11, "Q3_K"),
        (13, "Q5_K"),
        (15, "Q8_K"),
        (16, "IQ2_XXS"),
        (17, "IQ2_XS"),
        (18, "IQ3_XXS"),
        (19, "IQ1_S"),
        (20, "IQ4_NL"),
        (21, "IQ3_S"),
        (22, "IQ2_S"),
        (23, "IQ4_XS"),
        (24, "I8"),
        (25, "I16"),
        (26, "I32"),
        (27, "I64"),
        (28, "F64"),
        (29, "IQ1_M"),
        (34, "TQ1_0"),
        (35, "TQ2_0"),
        (39, "MXFP4"),
    ];
    known.iter().find(|(n, _)| *n == number).map_or(format!("type {number}"), |(_, name)| (*name).to_owned())
}

/// A tensor's place.
#[derive(Clone, Debug)]
pub(super) struct Info {
    pub(super) name: String,
    /// Outermost first, as everywhere else.
    pub(super) dims: Vec<usize>,
    pub(super) kind: Kind,
    /// From the start of the file.
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

pub(super) struct Head {
    pub(super) metadata: Metadata,
    pub(super) tensors: Vec<Info>,
}

/// Reads the head of a file of `length` bytes.
///
/// # Errors
/// The place in the file and the rule that is broken.
pub(super) fn head(from: impl Read, length: u64) -> Result<Head, String> {
    let mut reader = Reader { from, at: 0, end: length.min(LONGEST_HEAD) };
    if reader.array::<4>().map_err(|_| "is too short for GGUF".to_owned())? != MAGIC {
        return Err("does not begin with GGUF".into());
    }
    let version = reader.u32()?;
    if !(2..=3).contains(&version) {
        let swapped = if version.swap_bytes() <= 3 { " (a big-endian file)" } else { "" };
        return Err(format!("is of GGUF version {version}{swapped}; 2 and 3 are read, little-endian"));
    }
    let (tensors, entries) = (reader.u64()?, reader.u64()?);
    // A tensor takes at least 32 bytes, an entry 13.
    reader.fits(tensors, 32, "tensors")?;
    reader.fits(entries, 13, "metadata entries")?;
    let mut metadata = Metadata::default();
    let mut seen = HashSet::new();
    for _ in 0..entries {
        let key = reader.text("a key")?;
        let kind = reader.u32()?;
        let value = reader.value(kind, &key, false)?;
        if !seen.insert(key.clone()) {
            return Err(format!("has the key `{key}` twice"));
        }
        metadata.0.push((key, value));
    }
    let alignment = match metadata.get("general.alignment") {
        None => 32,
        Some(value) => match value.whole().filter(|n| n.is_power_of_two() && *n <= 1 << 20) {
            Some(n) => n as u64,
            None => return Err(format!("general.alignment is {value}: must be a power of two up to 2^20")),
        },
    };
    let mut infos = Vec::new();
    let mut names = HashSet::new();
    for _ in 0..tensors {
        let info = reader.tensor()?;
        if !names.insert(info.name.clone()) {
            return Err(format!("has the tensor `{}` twice", info.name));
        }
        infos.push(info);
    }
    let start = reader.at.next_multiple_of(alignment);
    for info in &mut infos {
        if !info.offset.is_multiple_of(alignment) {
            return Err(format!(
                "tensor `{}` lies at {}, no multiple of the alignment {alignment}",
                info.name, info.offset
            ));
        }
        let end = start.checked_add(info.offset).and_then(|offset| {
            info.offset = offset;
            offset.checked_add(info.bytes)
        });
        if end.is_none_or(|end| end > length) {
            return Err(format!(
                "tensor `{}` ends beyond the file's {length} bytes: truncated or damaged",
                info.name
            ));
        }
    }
    Ok(Head { metadata, tensors: infos })
}

struct Reader<R> {
    from: R,
    at: u64,
    end: u64,
}

impl<R: Read> Reader<R> {
    fn take(&mut self, bytes: &mut [u8]) -> Result<(), String> {
        let at = self.at;
        if bytes.len() as u64 > self.end - at {
            return Err(format!("ends in its head, at byte {at}"));
        }
        self.from.read_exact(bytes).map_err(|error| format!("cannot be read at byte {at}: {error}"))?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.take(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Whether `count` things of at least `least` bytes can still come.
    fn fits(&self, count: u64, least: u64, what: &str) -> Result<(), String> {
        if count > (self.end - self.at) / least {
            return Err(format!("claims {count} {what} at byte {}, more than it can hold", self.at));
        }
        Ok(())
    }

    fn text(&mut self, what: &str) -> Result<String, String> {
        let length = self.u64()?;
        self.fits(length, 1, &format!("bytes for {what}"))?;
        let mut bytes = vec![0; length as usize];
        let at = self.at;
        self.take(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| format!("has {what} at byte {at} that is not UTF-8"))
    }

    fn value(&mut self, kind: u32, key: &str, inside: bool) -> Result<Value, String> {
        Ok(match kind {
            0 => Value::Unsigned(self.array::<1>()?[0].into()),
            1 => Value::Signed(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Unsigned(self.u32()?.into()),
            5 => Value::Signed(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array()?).into()),
            7 => match self.array::<1>()?[0] {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                other => return Err(format!("`{key}` is a flag of value {other}")),
            },
            8 => Value::Text(self.text(&format!("text of `{key}`"))?),
            9 if !inside => {
                let kind = self.u32()?;
                let count = self.u64()?;
                let least = match kind {
                    0 | 1 | 7 => 1,
                    2 | 3 => 2,
                    4..=6 => 4,
                    8 | 10..=12 => 8,
                    _ => return Err(format!("`{key}` is a list of type {kind}")),
                };
                self.fits(count, least, &format!("values of `{key}`"))?;
                let values = (0..count).map(|_| self.value(kind, key, true));
                Value::List(values.collect::<Result<_, _>>()?)
            }
            10 => Value::Unsigned(self.u64()?),
            11 => Value::Signed(i64::from_le_bytes(self.array()?)),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            other => return Err(format!("`{key}` is of type {other}, which GGUF does not know")),
        })
    }

    fn tensor(&mut self) -> Result<Info, String> {
        let name = self.text("a tensor's name")?;
        let rank = self.u32()?;
        if !(1..=4).contains(&rank) {
            return Err(format!("tensor `{name}` has {rank} dimensions, must be 1 to 4"));
        }
        let mut dims = Vec::new();
        for _ in 0..rank {
            let dim = usize::try_from(self.u64()?).unwrap_or(0);
            if dim == 0 || dim > 1 << 40 {
                return Err(format!("tensor `{name}` has an impossible dimension"));
            }
            dims.insert(0, dim);
        }
        let number = self.u32()?;
        let offset = self.u64()?;
        let kind = Kind::of(number).ok_or_else(|| {
            format!(
                "tensor `{name}` is {}: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K and Q6_K are read",
                type_name(number)
            )
        })?;
        let (piece, piece_bytes) = kind.piece();
        let inner = dims[dims.len() - 1];
        if !inner.is_multiple_of(piece) {
            return Err(format!(
                "tensor `{name}` has rows of {inner}, no multiple of {} blocks",
                kind.name()
            ));
        }
        let pieces =
            dims.iter().try_fold(1u64, |n, &dim| n.checked_mul(dim as u64)).map(|n| n / piece as u64);
        let bytes = pieces.and_then(|n| n.checked_mul(piece_bytes as u64));
        let bytes = bytes.ok_or_else(|| format!("tensor `{name}` is larger than any file"))?;
        Ok(Info { name, dims, kind, offset, bytes })
    }
}

/// Reads arbitrary bytes as a file's head; for fuzzing: it must neither panic nor take much more memory than
/// the bytes do.
pub fn fuzz_gguf(bytes: &[u8]) {
    if let Ok(head) = head(bytes, bytes.len() as u64) {
        let _ = super::config::model(std::path::Path::new("fuzzed"), &head);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A file with one entry and one tensor.
    fn small() -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        let text = |bytes: &mut Vec<u8>, text: &str| {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.bytes());
        };
        text(&mut bytes, "general.architecture");
        bytes.extend(8u32.to_le_bytes());
        text(&mut bytes, "llama");
        text(&mut bytes, "x");
        bytes.extend(2u32.to_le_bytes());
        bytes.extend(32u64.to_le_bytes());
        bytes.extend(2u64.to_le_bytes());
        bytes.extend(8u32.to_le_bytes());
        bytes.extend(0u64.to_le_bytes());
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend([7; 2 * 34]);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Head, String> {
        head(bytes, bytes.len() as u64)
    }

    #[test]
    fn a_small_file_is_read() {
        let head = read(&small()).unwrap();
        assert_eq!(head.metadata.get("general.architecture").unwrap().text(), Some("llama"));
        let info = &head.tensors[0];
        assert_eq!((info.name.as_str(), info.dims.as_slice(), info.bytes), ("x", &[2, 32][..], 68));
    }

    #[test]
    fn every_shorter_file_is_refused() {
        let bytes = small();
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn hostile_files_are_refused_with_the_rule() {
        let with = |at: usize, bytes: &[u8]| {
            let mut file = small();
            file[at..at + bytes.len()].copy_from_slice(bytes);
            read(&file).err().unwrap()
        };
        assert!(with(0, b"GGML").contains("does not begin with GGUF"));
        assert!(with(4, &9u32.to_le_bytes()).contains("version 9"));
        assert!(with(4, &3u32.to_be_bytes()).contains("big-endian"));
        assert!(with(8, &u64::MAX.to_le_bytes()).contains("tensors at byte"));
        assert!(with(16, &(1u64 << 60).to_le_bytes()).contains("metadata entries"));
        assert!(with(24, &u64::MAX.to_le_bytes()).contains("bytes for a key"));
        assert!(with(52, &77u32.to_le_bytes()).contains("type 77"));
        let name = 52 + 4 + 8 + 5 + 8;
        assert!(with(name + 1, &9u32.to_le_bytes()).contains("9 dimensions"));
        assert!(with(name + 5, &33u64.to_le_bytes()).contains("no multiple of Q8_0 blocks"));
        assert!(with(name + 13, &u64::MAX.to_le_bytes()).contains("impossible dimension"));
        assert!(with(name + 21, &13u32.to_le_bytes()).contains("is Q5_K"));
        assert!(with(name + 25, &5u64.to_le_bytes()).contains("no multiple of the alignment"));
        assert!(with(name + 25, &(u64::MAX - 31).to_le_bytes()).contains("ends beyond"));
    }

    #[test]
    fn the_fuzz_corpus_is_replayed() {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/gguf");
        let (mut seen, mut read) = (0, 0);
        for entry in std::fs::read_dir(corpus).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            fuzz_gguf(&bytes);
            read += usize::from(head(&bytes[..], bytes.len() as u64).is_ok());
            seen += 1;
        }
        assert!(seen >= 6 && read >= 3, "{read} of {seen} files are whole");
    }

    #[test]
    fn damaged_bytes_never_panic() {
        let bytes = small();
        for at in 0..bytes.len() {
            for value in [0, 1, 9, 127, 255] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                fuzz_gguf(&damaged);
            }
        }
    }
}
