//! Control messages between processes: which call a rank has begun, and the bytes of host gatherings.
//! Every data message is announced by one, so that a disagreement is found before sizes can clash.

use crate::{Call, Operation};
use triax_tensor::DType;

/// What one process tells another.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Control {
    /// The sender has begun this call, in the group of these ranks; its data comes under tags from `tag` on.
    Began { call: Call, ranks: Vec<usize>, tag: i32, bytes: Vec<u8> },
    /// The sender will begin nothing more.
    Left,
    /// The world has ended, and this is why.
    Broken { line: String },
}

/// What arrived is not a control message of this version.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Garbled;

const DTYPES: [DType; 5] = [DType::F32, DType::Bf16, DType::F16, DType::F64, DType::U32];
const LEFT: u64 = u64::MAX;
const BROKEN: u64 = u64::MAX - 1;

impl Control {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer(Vec::new());
        let (call, ranks, tag, bytes) = match self {
            Self::Began { call, ranks, tag, bytes } => (call, ranks, tag, bytes),
            Self::Left => {
                out.number(LEFT);
                return out.0;
            }
            Self::Broken { line } => {
                out.number(BROKEN);
                out.bytes(line.as_bytes());
                return out.0;
            }
        };
        let (code, a, b) = match call.operation {
            Operation::AllReduce => (0, 0, 0),
            Operation::ReduceScatter => (1, 0, 0),
            Operation::AllGather => (2, 0, 0),
            Operation::Broadcast { root } => (3, root, 0),
            Operation::Barrier => (4, 0, 0),
            Operation::GatherHost => (5, 0, 0),
            Operation::Message { from, to } => (6, from, to),
        };
        [code, a as u64, b as u64, call.sequence, *tag as u64].into_iter().for_each(|n| out.number(n));
        let (elements, dtype) = call.elements.map_or((0, DTYPES.len()), |(elements, dtype)| {
            (elements, DTYPES.iter().position(|other| *other == dtype).expect("all types are listed"))
        });
        out.number(elements as u64);
        out.number(dtype as u64);
        out.bytes(call.what.as_bytes());
        out.bytes(call.group.as_bytes());
        out.numbers(ranks.iter().copied());
        out.numbers(call.parts.iter().flat_map(|part| [part.start, part.end]));
        out.bytes(bytes);
        out.0
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Garbled> {
        let mut from = Reader(bytes);
        let code = from.number()?;
        if code == LEFT {
            return Ok(Self::Left);
        }
        if code == BROKEN {
            return Ok(Self::Broken { line: from.text()? });
        }
        let (a, b) = (from.number()? as usize, from.number()? as usize);
        let operation = match code {
            0 => Operation::AllReduce,
            1 => Operation::ReduceScatter,
            2 => Operation::AllGather,
            3 => Operation::Broadcast { root: a },
            4 => Operation::Barrier,
            5 => Operation::GatherHost,
            6 => Operation::Message { from: a, to: b },
            _ => return Err(Garbled),
        };
        let sequence = from.number()?;
        let tag = i32::try_from(from.number()?).map_err(|_| Garbled)?;
        let elements = from.number()? as usize;
        let dtype = from.number()? as usize;
        let elements = DTYPES.get(dtype).map(|dtype| (elements, *dtype));
        let what = from.text()?;
        let group = from.text()?;
        let ranks = from.numbers()?;
        let parts = from.numbers()?.as_chunks::<2>().0.iter().map(|[start, end]| *start..*end).collect();
        let bytes = from.bytes()?.to_vec();
        Ok(Self::Began {
            call: Call { operation, what, group, sequence, elements, parts },
            ranks,
            tag,
            bytes,
        })
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn number(&mut self, number: u64) {
        self.0.extend(number.to_le_bytes());
    }

    fn numbers(&mut self, numbers: impl Iterator<Item = usize>) {
        let numbers: Vec<usize> = numbers.collect();
        self.number(numbers.len() as u64);
        numbers.into_iter().for_each(|number| self.number(number as u64));
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend(bytes);
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn number(&mut self) -> Result<u64, Garbled> {
        let (number, rest) = self.0.split_first_chunk::<8>().ok_or(Garbled)?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*number))
    }

    fn numbers(&mut self) -> Result<Vec<usize>, Garbled> {
        let count = self.number()?;
        // No more than can be there, whatever the count says.
        if count > self.0.len() as u64 / 8 {
            return Err(Garbled);
        }
        (0..count).map(|_| self.number().map(|number| number as usize)).collect()
    }

    fn bytes(&mut self) -> Result<&'a [u8], Garbled> {
        let len = usize::try_from(self.number()?).map_err(|_| Garbled)?;
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(Garbled)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn text(&mut self) -> Result<String, Garbled> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| Garbled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Control {
        let call = Call {
            operation: Operation::Message { from: 3, to: 1 },
            what: "Aktivierungen ü".to_owned(),
            group: String::new(),
            sequence: 1 << 40,
            elements: Some((7, DType::Bf16)),
            parts: vec![0..3, 5..7],
        };
        Control::Began { call, ranks: vec![3, 1], tag: 32_000, bytes: vec![1, 2, 3] }
    }

    #[test]
    fn messages_survive_the_wire() {
        let Control::Began { call, ranks, tag, bytes } = example() else { unreachable!() };
        let operations = [
            Operation::AllReduce,
            Operation::ReduceScatter,
            Operation::AllGather,
            Operation::Broadcast { root: 2 },
            Operation::Barrier,
            Operation::GatherHost,
            call.operation,
        ];
        for operation in operations {
            for elements in [None, Some((0, DType::F32)), Some((9, DType::U32))] {
                let call = Call { operation, elements, ..call.clone() };
                let control = Control::Began { call, ranks: ranks.clone(), tag, bytes: bytes.clone() };
                assert_eq!(Control::decode(&control.encode()), Ok(control));
            }
        }
        for control in [Control::Left, Control::Broken { line: "rank 1 gave up: ü".to_owned() }] {
            assert_eq!(Control::decode(&control.encode()), Ok(control));
        }
    }

    #[test]
    fn cut_messages_are_refused() {
        let whole = example().encode();
        for len in 0..whole.len() {
            assert_eq!(Control::decode(&whole[..len]), Err(Garbled), "{len} bytes");
        }
    }
}
