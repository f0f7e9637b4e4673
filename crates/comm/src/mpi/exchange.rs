//! Collectives as lists of messages between members, for engines whose ranks share no memory. Large
//! operations are cut into rounds, so that temporary memory is bounded and counts stay small.
//!
//! ```text
//! all-reduce, member i:   send part j to member j          receive part i of member j into a temporary
//!                         sum in the tree's order ──▶ my part i
//!                         send part i to member j          receive part j of member j, once mine is sent
//! ```
//!
//! A reduce-scatter is the first half, an all-gather the second; a broadcast goes down a binomial tree.
//! Pure functions of the call: nothing here sends anything.

use crate::{Call, Operation, parts};
use std::ops::Range;

/// Largest number of elements of one message.
pub(super) const SEGMENT: usize = 256 << 10;

/// A piece of an operation that runs by itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Round {
    pub(super) moves: Vec<Move>,
    pub(super) sum: Option<Sum>,
    /// Elements of `From` that are copied to elements of `To` here.
    pub(super) copy: Option<(Range<usize>, Range<usize>)>,
}

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Move {
    /// Index of the other member.
    pub(super) peer: usize,
    pub(super) direction: Direction,
    pub(super) place: Place,
    pub(super) elements: Range<usize>,
    /// 0 before the sum, 1 after; messages of one pair and round differ in direction or stage.
    pub(super) stage: usize,
    pub(super) after: After,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Send,
    Receive,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// What the request gives.
    From,
    /// What the request gets.
    To,
    /// For what this member sends to be summed here.
    Temporary(usize),
}

/// What must be finished before a move begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    Nothing,
    Sum,
    /// This move of the round.
    Move(usize),
}

/// `To[to]` = the tree sum of all members' elements, mine being `From[from]`, the others' temporaries.
/// Runs when all moves of stage 0 that receive are finished.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sum {
    pub(super) from: Range<usize>,
    pub(super) to: Range<usize>,
}

/// The rounds of a call for the member `index` of `members`, with messages of up to `segment` elements.
/// None for operations on host bytes, which travel with the announcements.
pub(super) fn rounds(call: &Call, members: usize, index: usize, segment: usize) -> Vec<Round> {
    let elements = call.elements.map_or(0, |(elements, _)| elements);
    let spans = || (0..elements).step_by(segment).map(|start| start..elements.min(start + segment));
    match call.operation {
        // Each round is an all-reduce of its own, on consecutive elements.
        Operation::AllReduce => (0..elements)
            .step_by(segment * members)
            .filter(|_| members > 1)
            .map(|start| {
                let len = (elements - start).min(segment * members);
                let spans: Vec<Range<usize>> = parts(len, members)
                    .into_iter()
                    .map(|part| start + part.start..start + part.end)
                    .collect();
                let mut round = scatter(&spans, index, spans[index].clone());
                gather(&mut round, &spans, index, &Place::To, spans[index].clone());
                round
            })
            .collect(),
        Operation::ReduceScatter => sliced(&call.parts, segment)
            .map(|(spans, offset)| scatter(&spans, index, offset[index].clone()))
            .collect(),
        Operation::AllGather => sliced(&call.parts, segment)
            .map(|(spans, offset)| {
                let mut round = Round::default();
                gather(&mut round, &spans, index, &Place::From, offset[index].clone());
                round.copy = Some((offset[index].clone(), spans[index].clone()));
                round
            })
            .collect(),
        Operation::Broadcast { root } => {
            spans().map(|span| down_the_tree(members, index, root, span)).collect()
        }
        Operation::Message { .. } => spans().map(|span| message(index, span)).collect(),
        Operation::Barrier | Operation::GatherHost => Vec::new(),
    }
}

/// Members that this one hears from and members it tells, even when there is nothing to move. In operations
/// of a whole group everybody tells everybody, so that all know who is missing.
pub(super) fn partners(operation: Operation, members: usize, index: usize) -> (Vec<usize>, Vec<usize>) {
    let others = || (0..members).filter(|member| *member != index).collect::<Vec<_>>();
    match operation {
        Operation::AllReduce
        | Operation::ReduceScatter
        | Operation::AllGather
        | Operation::Barrier
        | Operation::GatherHost => (others(), others()),
        Operation::Broadcast { root } => {
            let (parent, children) = family(members, index, root);
            (parent.into_iter().collect(), children)
        }
        Operation::Message { .. } if index == 0 => (vec![], vec![1]),
        Operation::Message { .. } => (vec![0], vec![]),
    }
}

/// Slices of up to `segment` elements of all parts: where they lie in the whole, and in each part.
fn sliced(
    parts: &[Range<usize>],
    segment: usize,
) -> impl Iterator<Item = (Vec<Range<usize>>, Vec<Range<usize>>)> {
    let longest = parts.iter().map(Range::len).max().unwrap_or(0);
    (0..longest).step_by(segment).map(move |start| {
        let offset: Vec<Range<usize>> =
            parts.iter().map(|part| start.min(part.len())..(start + segment).min(part.len())).collect();
        let spans = parts.iter().zip(&offset);
        (spans.map(|(part, o)| part.start + o.start..part.start + o.end).collect(), offset)
    })
}

/// Every member's `spans[j]` of `From` to member j, summed there.
fn scatter(spans: &[Range<usize>], index: usize, to: Range<usize>) -> Round {
    let mut round = Round::default();
    let others = || (0..spans.len()).filter(|member| *member != index);
    for peer in others() {
        round.push(peer, Direction::Send, Place::From, spans[peer].clone(), 0, After::Nothing);
    }
    for peer in others() {
        let elements = 0..spans[index].len();
        round.push(peer, Direction::Receive, Place::Temporary(peer), elements, 0, After::Nothing);
    }
    round.sum = (!to.is_empty()).then(|| Sum { from: spans[index].clone(), to });
    round
}

/// Member i's elements to `spans[i]` of every member's `To`; mine are `own` of `place`. After the sum, when
/// the round has one: a span is received when its former contents are sent.
fn gather(round: &mut Round, spans: &[Range<usize>], index: usize, place: &Place, own: Range<usize>) {
    let others = || (0..spans.len()).filter(|member| *member != index);
    let stage = usize::from(round.sum.is_some() || !round.moves.is_empty());
    let after = if round.sum.is_some() { After::Sum } else { After::Nothing };
    for peer in others() {
        round.push(peer, Direction::Send, *place, own.clone(), stage, after);
    }
    for peer in others() {
        let sent = round.moves.iter().position(|m| {
            m.peer == peer && m.direction == Direction::Send && m.place == Place::From && m.stage < stage
        });
        let after = sent.map_or(After::Nothing, After::Move);
        round.push(peer, Direction::Receive, Place::To, spans[peer].clone(), stage, after);
    }
}

fn down_the_tree(members: usize, index: usize, root: usize, span: Range<usize>) -> Round {
    let mut round = Round::default();
    let (parent, children) = family(members, index, root);
    let after = if parent.is_some() { After::Move(0) } else { After::Nothing };
    if let Some(parent) = parent {
        round.push(parent, Direction::Receive, Place::To, span.clone(), 0, After::Nothing);
    }
    for child in children {
        round.push(child, Direction::Send, Place::From, span.clone(), 0, after);
    }
    round
}

fn message(index: usize, span: Range<usize>) -> Round {
    let mut round = Round::default();
    if index == 0 {
        round.push(1, Direction::Send, Place::From, span, 0, After::Nothing);
    } else {
        round.push(0, Direction::Receive, Place::To, span, 0, After::Nothing);
    }
    round
}

/// Parent and children in the binomial tree: seen from the root, the parent's number lacks my lowest bit.
fn family(members: usize, index: usize, root: usize) -> (Option<usize>, Vec<usize>) {
    let number = (index + members - root) % members;
    let member = |number: usize| (number + root) % members;
    let parent = (number > 0).then(|| member(number & (number - 1)));
    let lowest = if number > 0 { number & number.wrapping_neg() } else { members.next_power_of_two() };
    let bits = (0..usize::BITS).map(|bit| 1usize << bit).take_while(|bit| *bit < lowest);
    let mut children: Vec<usize> = bits.map(|bit| number + bit).filter(|child| *child < members).collect();
    // The largest subtree first.
    children.reverse();
    (parent, children.into_iter().map(member).collect())
}

impl Round {
    /// Empty moves are left out, on both sides.
    fn push(
        &mut self,
        peer: usize,
        direction: Direction,
        place: Place,
        elements: Range<usize>,
        stage: usize,
        after: After,
    ) {
        if !elements.is_empty() {
            self.moves.push(Move { peer, direction, place, elements, stage, after });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{HashMap, VecDeque};
    use triax_tensor::{DType, join_order};

    /// One member's memory; what it gives and gets are the same floats where operations are in place.
    struct Member {
        from: Vec<f32>,
        to: Vec<f32>,
        in_place: bool,
        rounds: Vec<Round>,
    }

    /// Runs all members' moves in any order their conditions allow (`choose` picks), messages of a pair and
    /// stage in order; a send that nobody has received yet is unfinished.
    fn simulate(members: &mut [Member], round: usize, mut choose: impl FnMut(usize) -> usize) {
        let count = members.len();
        let mut finished: Vec<Vec<bool>> =
            members.iter().map(|m| vec![false; m.rounds[round].moves.len()]).collect();
        let mut summed = vec![false; count];
        let mut temporary: HashMap<(usize, usize), Vec<f32>> = HashMap::new();
        // By sender, receiver and stage: the number of the send, and what it carries.
        type Queue = VecDeque<(usize, Vec<f32>)>;
        let mut wire: HashMap<(usize, usize, usize), Queue> = HashMap::new();
        let mut posted: Vec<Vec<bool>> = finished.clone();
        loop {
            let mut possible = Vec::new();
            for (index, member) in members.iter().enumerate() {
                let round = &member.rounds[round];
                let received = round
                    .moves
                    .iter()
                    .zip(&finished[index])
                    .all(|(m, finished)| *finished || m.stage == 1 || m.direction == Direction::Send);
                if round.sum.is_some() && !summed[index] && received {
                    possible.push((index, None));
                }
                for (number, m) in round.moves.iter().enumerate() {
                    let ready = match m.after {
                        After::Nothing => true,
                        After::Sum => summed[index],
                        After::Move(other) => finished[index][other],
                    };
                    let available = match m.direction {
                        Direction::Send => !posted[index][number],
                        Direction::Receive => {
                            !finished[index][number]
                                && wire.get(&(m.peer, index, m.stage)).is_some_and(|w| !w.is_empty())
                        }
                    };
                    if ready && available {
                        possible.push((index, Some(number)));
                    }
                }
            }
            if possible.is_empty() {
                break;
            }
            let (index, number) = possible[choose(possible.len())];
            let plan = members[index].rounds[round].clone();
            let Some(number) = number else {
                let sum = plan.sum.expect("only rounds with a sum are summed");
                let own = members[index].from[sum.from.clone()].to_vec();
                let all: Vec<&[f32]> = (0..count)
                    .map(|m| if m == index { &own[..] } else { &temporary[&(index, m)][..] })
                    .collect();
                let sums = tree(&all);
                members[index].write(Place::To, sum.to, &sums);
                summed[index] = true;
                continue;
            };
            let m = &plan.moves[number];
            match m.direction {
                Direction::Send => {
                    let member = &members[index];
                    let source =
                        if m.place == Place::From || member.in_place { &member.from } else { &member.to };
                    let values = source[m.elements.clone()].to_vec();
                    wire.entry((index, m.peer, m.stage)).or_default().push_back((number, values));
                    posted[index][number] = true;
                }
                Direction::Receive => {
                    let queue = wire.get_mut(&(m.peer, index, m.stage)).expect("something was sent");
                    let (send, values) = queue.pop_front().expect("something was sent");
                    assert_eq!(values.len(), m.elements.len());
                    finished[m.peer][send] = true;
                    finished[index][number] = true;
                    if let Place::Temporary(member) = m.place {
                        temporary.insert((index, member), values);
                    } else {
                        members[index].write(m.place, m.elements.clone(), &values);
                    }
                }
            }
        }
        assert!(finished.iter().flatten().all(|finished| *finished), "stuck");
    }

    impl Member {
        fn write(&mut self, _place: Place, elements: Range<usize>, values: &[f32]) {
            let to = if self.in_place { &mut self.from } else { &mut self.to };
            to[elements].copy_from_slice(values);
        }
    }

    fn tree(all: &[&[f32]]) -> Vec<f32> {
        let mut stack: Vec<Vec<f32>> = Vec::new();
        for (index, values) in all.iter().enumerate() {
            stack.push(values.to_vec());
            for _ in 0..join_order(all.len(), index) {
                let newer = stack.pop().expect("two sums are on the stack");
                let older = stack.last_mut().expect("two sums are on the stack");
                older.iter_mut().zip(newer).for_each(|(a, b)| *a += b);
            }
        }
        stack.pop().expect("one sum is left")
    }

    fn call(operation: Operation, elements: usize, parts: Vec<Range<usize>>) -> Call {
        Call {
            operation,
            what: "x".to_owned(),
            group: "some".to_owned(),
            sequence: 0,
            elements: Some((elements, DType::F32)),
            parts,
        }
    }

    fn values(member: usize, len: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 31 + member * 17) % 101) as f32 * 1.1f32.powi(member as i32 * 9)).collect()
    }

    fn run(call: &Call, members: &mut [Member], seed: u64) {
        let count = members.len();
        for (index, member) in members.iter_mut().enumerate() {
            member.rounds = rounds(call, count, index, 3);
        }
        let mut state = seed | 1;
        for round in 0..members[0].rounds.len() {
            simulate(members, round, |len| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as usize % len
            });
            for member in members.iter_mut() {
                if let Some((from, to)) = member.rounds[round].copy.clone() {
                    let values = member.from[from].to_vec();
                    member.write(Place::To, to, &values);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn an_all_reduce_ends_with_the_sum_everywhere(count in 1usize..9, len in 0usize..60, seed: u64) {
            let mut members: Vec<Member> = (0..count)
                .map(|m| Member { from: values(m, len), to: vec![], in_place: true, rounds: vec![] })
                .collect();
            let given: Vec<Vec<f32>> = members.iter().map(|m| m.from.clone()).collect();
            run(&call(Operation::AllReduce, len, vec![]), &mut members, seed);
            let sums = tree(&given.iter().map(|g| &g[..]).collect::<Vec<_>>());
            prop_assert!(members.iter().all(|m| m.from == sums));
        }

        #[test]
        fn a_reduce_scatter_ends_with_a_part_each(count in 1usize..9, len in 0usize..60, seed: u64) {
            let cut = parts(len, count);
            let mut members: Vec<Member> = (0..count)
                .map(|m| {
                    let to = vec![0.0; cut[m].len()];
                    Member { from: values(m, len), to, in_place: false, rounds: vec![] }
                })
                .collect();
            let sums = tree(&members.iter().map(|m| &m.from[..]).collect::<Vec<_>>());
            run(&call(Operation::ReduceScatter, len, cut.clone()), &mut members, seed);
            for (member, part) in members.iter().zip(cut) {
                prop_assert_eq!(&member.to[..], &sums[part]);
            }
        }

        #[test]
        fn an_all_gather_and_a_broadcast_end_with_the_same_everywhere(
            count in 1usize..9,
            len in 0usize..60,
            root in 0usize..8,
            seed: u64,
        ) {
            let cut = parts(len, count);
            let whole = values(9, len);
            let mut members: Vec<Member> = cut
                .iter()
                .map(|part| {
                    let from = whole[part.clone()].to_vec();
                    Member { from, to: vec![0.0; len], in_place: false, rounds: vec![] }
                })
                .collect();
            run(&call(Operation::AllGather, len, cut), &mut members, seed);
            prop_assert!(members.iter().all(|m| m.to == whole));

            let root = root % count;
            let mut members: Vec<Member> = (0..count)
                .map(|m| Member { from: values(m, len), to: vec![], in_place: true, rounds: vec![] })
                .collect();
            run(&call(Operation::Broadcast { root }, len, vec![]), &mut members, seed);
            prop_assert!(members.iter().all(|m| m.from == values(root, len)));
        }
    }

    #[test]
    fn partners_agree_on_who_tells_whom() {
        for members in 1..10 {
            let operations = (0..members).map(|root| Operation::Broadcast { root });
            for operation in operations.chain([Operation::AllReduce, Operation::Barrier]) {
                let all: Vec<_> = (0..members).map(|index| partners(operation, members, index)).collect();
                for (index, (hears, _)) in all.iter().enumerate() {
                    assert!(hears.iter().all(|peer| all[*peer].1.contains(&index)), "{operation:?}");
                }
                assert_eq!(
                    all.iter().map(|(hears, _)| hears.len()).sum::<usize>(),
                    all.iter().map(|(_, tells)| tells.len()).sum::<usize>()
                );
            }
        }
    }
}
