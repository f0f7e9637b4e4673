//! The states of a grammar by number, and the ways between them that were walked so far: of a hundred thousand
//! tokens' bytes most lead from the same few states to the same few.

use super::grammar::{Frames, Grammar, State};
use std::collections::HashMap;
use std::sync::Arc;

/// States kept before all are forgotten: schemas that call themselves have no end of them.
const MOST: usize = 1 << 16;

pub(super) struct Automaton {
    grammar: Arc<Grammar>,
    frames: Frames,
    states: Vec<Arc<State>>,
    numbers: HashMap<Arc<State>, u32>,
    /// By state and byte.
    ways: HashMap<(u32, u8), u32>,
}

impl Automaton {
    /// Nothing leads out of it.
    pub(super) const DEAD: u32 = 0;

    /// The automaton and the state of the empty text.
    pub(super) fn new(grammar: Arc<Grammar>) -> (Self, u32) {
        let mut frames = Frames::default();
        let start = grammar.start(&mut frames);
        let mut automaton =
            Self { grammar, frames, states: Vec::new(), numbers: HashMap::new(), ways: HashMap::new() };
        automaton.number(State::default());
        let start = automaton.number(start);
        (automaton, start)
    }

    fn number(&mut self, state: State) -> u32 {
        if let Some(&number) = self.numbers.get(&state) {
            return number;
        }
        let (state, number) = (Arc::new(state), self.states.len() as u32);
        self.states.push(Arc::clone(&state));
        self.numbers.insert(state, number);
        number
    }

    pub(super) fn step(&mut self, state: u32, byte: u8) -> u32 {
        if let Some(&next) = self.ways.get(&(state, byte)) {
            return next;
        }
        let next = self.grammar.step(&self.states[state as usize], byte, &mut self.frames);
        let next = self.number(next);
        self.ways.insert((state, byte), next);
        next
    }

    /// The text may be complete.
    pub(super) fn may_end(&self, state: u32) -> bool {
        self.grammar.may_end(&self.states[state as usize])
    }

    /// Nothing can follow.
    pub(super) fn must_end(&self, state: u32) -> bool {
        self.grammar.must_end(&self.states[state as usize])
    }

    /// When there are too many states, forgets all but `state`; its new number then, and no other is valid.
    pub(super) fn shed(&mut self, state: u32) -> Option<u32> {
        if self.states.len() <= MOST {
            return None;
        }
        let kept = State::clone(&self.states[state as usize]);
        self.states.clear();
        self.numbers.clear();
        self.ways.clear();
        self.number(State::default());
        Some(self.number(kept))
    }
}

#[cfg(test)]
mod tests {
    use super::super::choices;
    use super::*;

    #[test]
    fn ways_are_the_grammars_own_also_when_they_are_known() {
        let texts = ["abc", "abd", "xbd"].map(String::from);
        let (mut automaton, start) = Automaton::new(Arc::new(choices(&texts)));
        let mut walk = |text: &str| text.bytes().fold(start, |state, byte| automaton.step(state, byte));
        let first = [walk("ab"), walk("xb"), walk("abd"), walk("b")];
        assert_eq!(first, [walk("ab"), walk("xb"), walk("abd"), walk("b")]);
        assert_eq!(first[3], Automaton::DEAD);
        assert_eq!(walk("abd"), walk("xbd"), "nothing follows either");
        let (done, middle) = (walk("abc"), walk("ab"));
        assert!(automaton.must_end(done) && automaton.may_end(done) && !automaton.may_end(middle));
    }
}
