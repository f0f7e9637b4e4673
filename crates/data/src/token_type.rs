//! The eight number types a `.bin` may hold, by Megatron's codes, and their conversion from and to token ids.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TokenType {
    U8 = 1,
    I8 = 2,
    I16 = 3,
    I32 = 4,
    I64 = 5,
    F64 = 6,
    F32 = 7,
    U16 = 8,
}

impl TokenType {
    pub const ALL: [Self; 8] =
        [Self::U8, Self::I8, Self::I16, Self::I32, Self::I64, Self::F64, Self::F32, Self::U16];

    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// Megatron's rule for writers: u16 below a vocabulary of 65,500, else i32.
    #[must_use]
    pub fn for_vocab(vocab: usize) -> Self {
        if vocab < 65_500 { Self::U16 } else { Self::I32 }
    }

    /// Bytes a token.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::I16 | Self::U16 => 2,
            Self::I32 | Self::F32 => 4,
            Self::I64 | Self::F64 => 8,
        }
    }

    /// The largest token id this type holds exactly. `u32::MAX` itself is kept free as a marker.
    #[must_use]
    pub fn largest(self) -> u32 {
        match self {
            Self::U8 => u8::MAX.into(),
            Self::I8 => 127,
            Self::I16 => 32_767,
            Self::U16 => u16::MAX.into(),
            Self::I32 => i32::MAX as u32,
            Self::F32 => 1 << 24,
            Self::I64 | Self::F64 => u32::MAX - 1,
        }
    }

    /// Appends ids, each at most [`Self::largest`], in little-endian order.
    pub(crate) fn encode(self, ids: &[u32], out: &mut Vec<u8>) {
        out.reserve(ids.len() * self.size());
        match self {
            Self::U8 | Self::I8 => out.extend(ids.iter().map(|&id| id as u8)),
            Self::I16 | Self::U16 => ids.iter().for_each(|&id| out.extend((id as u16).to_le_bytes())),
            Self::I32 => ids.iter().for_each(|&id| out.extend(id.to_le_bytes())),
            Self::I64 => ids.iter().for_each(|&id| out.extend(u64::from(id).to_le_bytes())),
            Self::F32 => ids.iter().for_each(|&id| out.extend((id as f32).to_le_bytes())),
            Self::F64 => ids.iter().for_each(|&id| out.extend(f64::from(id).to_le_bytes())),
        }
    }

    /// Turns `ids.len()` stored numbers into ids below `limit`; on failure the place and the number as text.
    pub(crate) fn decode(self, bytes: &[u8], ids: &mut [u32], limit: u32) -> Result<(), (usize, String)> {
        match self {
            Self::U8 => each(bytes, ids, limit, |[b]: [u8; 1]| i64::from(b)),
            Self::I8 => each(bytes, ids, limit, |b: [u8; 1]| i64::from(i8::from_le_bytes(b))),
            Self::I16 => each(bytes, ids, limit, |b: [u8; 2]| i64::from(i16::from_le_bytes(b))),
            Self::U16 => each(bytes, ids, limit, |b: [u8; 2]| i64::from(u16::from_le_bytes(b))),
            Self::I32 => each(bytes, ids, limit, |b: [u8; 4]| i64::from(i32::from_le_bytes(b))),
            Self::I64 => each(bytes, ids, limit, i64::from_le_bytes),
            Self::F32 => floats(bytes, ids, limit, |b: [u8; 4]| f64::from(f32::from_le_bytes(b))),
            Self::F64 => floats(bytes, ids, limit, f64::from_le_bytes),
        }
    }
}

fn each<const SIZE: usize>(
    bytes: &[u8],
    ids: &mut [u32],
    limit: u32,
    number: impl Fn([u8; SIZE]) -> i64,
) -> Result<(), (usize, String)> {
    // One branch a block, not one a token: the common case is that every id is good.
    let (chunks, _) = bytes.as_chunks::<SIZE>();
    let mut good = true;
    for (id, &chunk) in ids.iter_mut().zip(chunks) {
        let value = number(chunk);
        good &= (0..i64::from(limit)).contains(&value);
        *id = value as u32;
    }
    if good {
        return Ok(());
    }
    let bad = |&value: &i64| !(0..i64::from(limit)).contains(&value);
    let values = chunks.iter().map(|&chunk| number(chunk));
    let (place, value) = values.enumerate().find(|(_, value)| bad(value)).unwrap_or((0, -1));
    Err((place, value.to_string()))
}

fn floats<const SIZE: usize>(
    bytes: &[u8],
    ids: &mut [u32],
    limit: u32,
    number: impl Fn([u8; SIZE]) -> f64,
) -> Result<(), (usize, String)> {
    let (chunks, _) = bytes.as_chunks::<SIZE>();
    for (place, (id, &chunk)) in ids.iter_mut().zip(chunks).enumerate() {
        let value = number(chunk);
        if !(0.0..f64::from(limit)).contains(&value) || value.fract() != 0.0 {
            return Err((place, value.to_string()));
        }
        *id = value as u32;
    }
    Ok(())
}
