//! What is done with the members' memory once all are there: sums and copies, cut into tasks that any of
//! them can do, each in one pass straight from the sources into all destinations.

use crate::rendezvous::Work;
use crate::request::Operands;
use crate::{Call, Operation, sums};
use std::ops::Range;

/// Elements of a task: large enough to forget its cost, small enough to share among members.
const TASK: usize = 64 << 10;

pub(super) struct Transfer {
    operation: Operation,
    /// Bytes of an element.
    width: usize,
    parts: Vec<Range<usize>>,
    members: Vec<Operands>,
    pieces: Vec<Piece>,
    /// Consecutive pieces.
    tasks: Vec<Range<usize>>,
}

/// Elements of one part.
struct Piece {
    part: usize,
    elements: Range<usize>,
}

impl Transfer {
    /// `members` are the operands of a checked [`crate::Request`] each, whose calls were found equal.
    pub(super) fn new(call: &Call, members: Vec<Operands>) -> Self {
        let (elements, width) = call.elements.map_or((0, 1), |(elements, dtype)| (elements, dtype.bytes()));
        let alone = members.len() == 1;
        let pieces: Vec<Piece> = match call.operation {
            Operation::ReduceScatter | Operation::AllGather => {
                call.parts.iter().enumerate().flat_map(|(part, range)| cut(part, range.clone())).collect()
            }
            Operation::AllReduce | Operation::Broadcast { .. } if alone => Vec::new(),
            _ => cut(0, 0..elements).collect(),
        };
        let tasks = group(&pieces);
        Self { operation: call.operation, width, parts: call.parts.clone(), members, pieces, tasks }
    }

    /// What the members gave on the host.
    pub(super) fn gathered(&self) -> Vec<Vec<u8>> {
        match self.operation {
            Operation::GatherHost => self.members.iter().map(|member| member.bytes.clone()).collect(),
            _ => Vec::new(),
        }
    }

    /// Where element `element` of what member `index` gives is.
    fn source(&self, index: usize, element: usize) -> *const u8 {
        let memory = self.members[index].from.as_ref().expect("a checked request gives something");
        memory.pointer().wrapping_add(element * self.width)
    }

    fn destination(&self, index: usize, element: usize) -> *mut u8 {
        let memory = self.members[index].to.as_ref().expect("a checked request gets something");
        memory.pointer().wrapping_add(element * self.width)
    }

    fn run_piece(&self, piece: &Piece) {
        let (start, len) = (piece.elements.start, piece.elements.len());
        let all = 0..self.members.len();
        let within = |part: usize| start - self.parts[part].start;
        let sources =
            || all.clone().map(|index| self.source(index, start).cast()).collect::<Vec<*const f32>>();
        let destinations = || all.clone().map(|index| self.destination(index, start)).collect::<Vec<_>>();
        // SAFETY, of all operations: every request was checked: views have the elements of the call, parts
        // lie inside, do not overlap, and a member's own part is in place or apart from the whole, so that
        // a destination is its source or overlaps none, and no other piece touches these elements. The
        // arenas are alive (`HostMemory` owns them), and no member touches its views before its `wait`
        // returns, which is after all pieces are done or the meeting is cancelled.
        match self.operation {
            Operation::AllReduce => {
                let to: Vec<*mut f32> = destinations().into_iter().map(|to| to.cast()).collect();
                // SAFETY: see above.
                unsafe { sums::sum(&sources(), &to, len) }
            }
            Operation::ReduceScatter => {
                let to = self.destination(piece.part, within(piece.part)).cast();
                // SAFETY: see above.
                unsafe { sums::sum(&sources(), &[to], len) }
            }
            Operation::AllGather => {
                let from = self.source(piece.part, within(piece.part));
                // SAFETY: see above.
                unsafe { sums::copy(from, &destinations(), len * self.width) }
            }
            Operation::Broadcast { root } => {
                // SAFETY: see above.
                unsafe { sums::copy(self.source(root, start), &destinations(), len * self.width) }
            }
            Operation::Message { .. } => {
                let (from, to) = (self.source(0, start), self.destination(1, start));
                // SAFETY: see above; the two ranks have different arenas.
                unsafe { sums::copy(from, &[to], len * self.width) }
            }
            Operation::Barrier | Operation::GatherHost => {}
        }
    }
}

impl Work for Transfer {
    fn tasks(&self) -> usize {
        self.tasks.len()
    }

    fn run(&self, task: usize) {
        self.pieces[self.tasks[task].clone()].iter().for_each(|piece| self.run_piece(piece));
    }
}

fn cut(part: usize, elements: Range<usize>) -> impl Iterator<Item = Piece> {
    let end = elements.end;
    elements.step_by(TASK).map(move |start| Piece { part, elements: start..end.min(start + TASK) })
}

/// Runs of pieces of at least [`TASK`] elements each, the last one less.
fn group(pieces: &[Piece]) -> Vec<Range<usize>> {
    let mut tasks = Vec::new();
    let (mut first, mut elements) = (0, 0);
    for (index, piece) in pieces.iter().enumerate() {
        elements += piece.elements.len();
        if elements >= TASK || index + 1 == pieces.len() {
            tasks.push(first..index + 1);
            (first, elements) = (index + 1, 0);
        }
    }
    tasks
}
