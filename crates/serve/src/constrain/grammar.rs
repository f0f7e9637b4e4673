//! Forms of texts as an automaton over bytes with calls, like a regular expression whose parts may call each other.
//!
//! A state is the set of places the automaton may be in, each with the places to return to. Equal returns are one
//! number ([`Frames`]), so equal states compare equal however they were reached.

use std::collections::{HashMap, HashSet};

/// What happens at a place.
#[derive(Clone, Debug)]
enum Code {
    /// One of the bytes, then on.
    Bytes(ByteSet, u32),
    /// All of these places at once.
    Split(Vec<u32>),
    /// To the rule's begin, and then on.
    Call(usize, u32),
    /// Back from a rule; without a call, the text is complete.
    Return,
}

/// A set of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ByteSet([u64; 4]);

impl ByteSet {
    pub(crate) fn range(first: u8, last: u8) -> Self {
        let mut set = Self::default();
        (first..=last).for_each(|byte| set.insert(byte));
        set
    }

    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut set = Self::default();
        bytes.iter().for_each(|&byte| set.insert(byte));
        set
    }

    fn insert(&mut self, byte: u8) {
        self.0[usize::from(byte) / 64] |= 1 << (byte % 64);
    }

    pub(crate) fn without(mut self, bytes: &[u8]) -> Self {
        bytes.iter().for_each(|&byte| self.0[usize::from(byte) / 64] &= !(1 << (byte % 64)));
        self
    }

    fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte) / 64] >> (byte % 64) & 1 == 1
    }
}

/// A part of a form, before it is laid out as code.
#[derive(Clone, Debug)]
pub(crate) enum Form {
    Bytes(ByteSet),
    Text(String),
    All(Vec<Self>),
    Any(Vec<Self>),
    /// So many times, without end where no most is given.
    Repeat(Box<Self>, usize, Option<usize>),
    Rule(usize),
}

impl Form {
    pub(crate) fn optional(self) -> Self {
        Self::Repeat(Box::new(self), 0, Some(1))
    }

    /// How many places it takes to lay it out, about.
    pub(crate) fn places(&self) -> usize {
        match self {
            Self::Bytes(_) | Self::Rule(_) => 1,
            Self::Text(text) => text.len(),
            Self::All(parts) => parts.iter().map(Self::places).fold(0, usize::saturating_add),
            Self::Any(parts) => parts.iter().map(Self::places).fold(1, usize::saturating_add),
            Self::Repeat(part, least, most) => {
                part.places().saturating_add(1).saturating_mul(most.unwrap_or(least + 1))
            }
        }
    }
}

/// Rule 0 is the whole text.
#[derive(Debug)]
pub(crate) struct Grammar {
    code: Vec<Code>,
    rules: Vec<u32>,
}

/// One of `texts`.
pub(crate) fn choices(texts: &[String]) -> Grammar {
    Grammar::new(&[Form::Any(texts.iter().map(|text| Form::Text(text.clone())).collect())])
}

impl Grammar {
    pub(crate) fn new(rules: &[Form]) -> Self {
        let mut grammar = Self { code: vec![Code::Return], rules: Vec::new() };
        for rule in rules {
            let begin = grammar.lay(rule, 0);
            grammar.rules.push(begin);
        }
        grammar
    }

    #[cfg(test)]
    pub(crate) fn places(&self) -> usize {
        self.code.len()
    }

    fn push(&mut self, code: Code) -> u32 {
        self.code.push(code);
        self.code.len() as u32 - 1
    }

    /// Lays `form` out before the place `then`; its begin.
    fn lay(&mut self, form: &Form, then: u32) -> u32 {
        match form {
            Form::Bytes(set) => self.push(Code::Bytes(*set, then)),
            Form::Text(text) => {
                text.bytes().rev().fold(then, |then, byte| self.push(Code::Bytes(ByteSet::of(&[byte]), then)))
            }
            Form::All(parts) => parts.iter().rev().fold(then, |then, part| self.lay(part, then)),
            Form::Any(parts) => {
                let begins = parts.iter().map(|part| self.lay(part, then)).collect();
                self.push(Code::Split(begins))
            }
            Form::Repeat(part, least, most) => {
                let mut begin = match most {
                    None => {
                        let again = self.push(Code::Split(Vec::new()));
                        let body = self.lay(part, again);
                        self.code[again as usize] = Code::Split(vec![body, then]);
                        again
                    }
                    Some(most) => (*least..*most).fold(then, |next, _| {
                        let body = self.lay(part, next);
                        self.push(Code::Split(vec![body, then]))
                    }),
                };
                for _ in 0..*least {
                    begin = self.lay(part, begin);
                }
                begin
            }
            Form::Rule(rule) => self.push(Code::Call(*rule, then)),
        }
    }

    pub(crate) fn start(&self, frames: &mut Frames) -> State {
        let mut state = State::default();
        self.enter(self.rules[0], Frames::NONE, frames, &mut state);
        state.finish()
    }

    /// Every way from `state` over `byte`.
    pub(crate) fn step(&self, state: &State, byte: u8, frames: &mut Frames) -> State {
        let mut next = State::default();
        for &(place, frame) in &state.places {
            if let Code::Bytes(set, then) = &self.code[place as usize]
                && set.has(byte)
            {
                self.enter(*then, frame, frames, &mut next);
            }
        }
        next.finish()
    }

    /// Adds the places with bytes, and the text's end, that are reached from `place` without a byte.
    fn enter(&self, place: u32, frame: u32, frames: &mut Frames, state: &mut State) {
        // Most bytes lead to one place, before another byte.
        if matches!(self.code[place as usize], Code::Bytes(..)) {
            return state.places.push((place, frame));
        }
        let mut open = vec![(place, frame)];
        let mut seen = Seen::default();
        while let Some((place, frame)) = open.pop() {
            if !seen.insert((place, frame)) {
                continue;
            }
            match &self.code[place as usize] {
                Code::Bytes(..) => state.places.push((place, frame)),
                Code::Split(places) => open.extend(places.iter().map(|&place| (place, frame))),
                Code::Call(rule, then) => {
                    // A call at a rule's end returns to where the rule itself would.
                    let to = if matches!(self.code[*then as usize], Code::Return) {
                        frame
                    } else {
                        frames.push(*then, frame)
                    };
                    open.push((self.rules[*rule], to));
                }
                Code::Return if frame == Frames::NONE => state.places.push((place, frame)),
                Code::Return => open.push(frames.returns[frame as usize - 1]),
            }
        }
    }

    /// The text may be complete.
    pub(crate) fn may_end(&self, state: &State) -> bool {
        state.places.iter().any(|&(place, _)| matches!(self.code[place as usize], Code::Return))
    }

    /// Nothing can follow.
    pub(crate) fn must_end(&self, state: &State) -> bool {
        state.places.iter().all(|&(place, _)| matches!(self.code[place as usize], Code::Return))
    }
}

/// A set that is small as a rule, and may be large: a choice of a thousand texts has as many places.
#[derive(Default)]
struct Seen {
    few: Vec<(u32, u32)>,
    many: HashSet<(u32, u32)>,
}

impl Seen {
    const FEW: usize = 16;

    /// False: it was there.
    fn insert(&mut self, place: (u32, u32)) -> bool {
        if self.few.len() < Self::FEW {
            let new = !self.few.contains(&place);
            if new {
                self.few.push(place);
            }
            return new;
        }
        if self.many.is_empty() {
            self.many.extend(&self.few);
        }
        self.many.insert(place)
    }
}

/// Where the automaton may be: places with bytes (or the end), and the frame to return to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct State {
    places: Vec<(u32, u32)>,
}

impl State {
    fn finish(mut self) -> Self {
        self.places.sort_unstable();
        self.places.dedup();
        self
    }
}

/// Chains of places to return to, by number; equal chains have one number.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// Place and the frame below it.
    returns: Vec<(u32, u32)>,
    numbers: HashMap<(u32, u32), u32>,
}

impl Frames {
    /// Nowhere to return to.
    const NONE: u32 = 0;

    fn push(&mut self, place: u32, below: u32) -> u32 {
        *self.numbers.entry((place, below)).or_insert_with(|| {
            self.returns.push((place, below));
            self.returns.len() as u32
        })
    }
}
