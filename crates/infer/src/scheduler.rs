//! Continuous batching: every pass takes one new token of each running text and as much of the prompts as
//! fits; texts come and go between passes.
//!
//! ```text
//!  a pass    ┌ text 1: 1 row ┬ text 2: 1 row ┬ text 3: a piece of its prompt ┬ text 4: … ┐  at most `rows`
//!            └───────────────┴───────────────┴───────────────────────────────┴───────────┘
//! ```
//! When memory is short, the youngest running text gives its blocks up and waits to be computed again.

use crate::blocks::{Blocks, Name};
use crate::sequence::{Outcome, Sequence};
use crate::{
    Finish, GenerateRequest, Generated, InferError, Job, JobId, Network, Part, SamplingError, ScoreReply,
    ScoreRequest, Scorer, Shape, TokenScore,
};
use std::collections::{HashMap, HashSet, VecDeque};

/// What a pass brought for one job.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The token at `place` of the prompt.
    Prompt { place: usize, score: TokenScore },
    /// A new token.
    Token(TokenScore),
    /// The stop token that ends the text and is left out of it.
    Stop(TokenScore),
    /// The job is over. `found`: prompt tokens that were in memory already.
    End { finish: Finish, found: usize },
    /// The job is over without a result.
    Failed(InferError),
}

/// What the engine did and holds, for those who watch it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub waiting: usize,
    pub running: usize,
    pub blocks: usize,
    /// Blocks held by running texts.
    pub blocks_held: usize,
    /// Prompt tokens of all texts begun, and those of them found in memory.
    pub prompt_tokens: u64,
    pub found_tokens: u64,
    pub new_tokens: u64,
    pub passes: u64,
    pub preemptions: u64,
}

/// Runs jobs on a network.
pub struct Engine {
    network: Box<dyn Network>,
    shape: Shape,
    /// Stands before texts that begin with nothing.
    start: Option<u32>,
    blocks: Blocks,
    waiting: VecDeque<Sequence>,
    /// Oldest first.
    running: Vec<Sequence>,
    next_id: u64,
    counters: Counters,
    events: Vec<(JobId, Event)>,
}

/// A text's share of a pass: `running[index]`, tokens `from..to`.
struct Share {
    index: usize,
    from: usize,
    to: usize,
    logits: usize,
}

impl Engine {
    /// `start`: the token that ends a document, which stands before empty texts.
    ///
    /// # Panics
    /// When the network's memory cannot hold one text, or a pass one token of each text.
    pub fn new(network: Box<dyn Network>, start: Option<u32>) -> Self {
        let shape = network.shape();
        assert!(shape.blocks >= shape.blocks_for(shape.context), "{shape:?} cannot hold one text");
        assert!(shape.rows >= shape.sequences && shape.sequences > 0, "{shape:?} has passes too small");
        assert!(!shape.prefix_mask || shape.rows >= shape.context, "{shape:?} cuts prompts it must not");
        Self {
            network,
            shape,
            start,
            blocks: Blocks::new(shape.blocks),
            waiting: VecDeque::new(),
            running: Vec::new(),
            next_id: 0,
            counters: Counters { blocks: shape.blocks, ..Counters::default() },
            events: Vec::new(),
        }
    }

    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// The token that ends a document, which stands before empty texts.
    pub const fn document_start(&self) -> Option<u32> {
        self.start
    }

    /// Takes a job on; its first events come with the next [`Engine::step`].
    ///
    /// # Errors
    /// As [`Job::check`]; then nothing was taken on.
    pub fn submit(&mut self, job: Job) -> Result<JobId, InferError> {
        job.check(self.shape.vocab, self.shape.context)?;
        let id = JobId(self.next_id);
        self.next_id += 1;
        self.waiting.push_back(Sequence::new(id, job)?);
        Ok(id)
    }

    /// Forgets a job and frees its memory at once; it has no more events.
    pub fn cancel(&mut self, id: JobId) {
        self.waiting.retain(|sequence| sequence.id != id);
        if let Some(index) = self.running.iter().position(|sequence| sequence.id == id) {
            self.blocks.release(&mut self.running[index].blocks);
            self.running.remove(index);
        }
    }

    /// Nothing to do until the next [`Engine::submit`].
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    pub fn counters(&self) -> Counters {
        Counters {
            waiting: self.waiting.len(),
            running: self.running.len(),
            blocks_held: self.blocks.held(),
            ..self.counters
        }
    }

    /// One pass of the network. What it brought, in the order it came: a job's events are in the order of its
    /// text, its last one is [`Event::End`] or [`Event::Failed`].
    pub fn step(&mut self) -> Vec<(JobId, Event)> {
        self.admit();
        let shares = self.plan();
        if !shares.is_empty() {
            self.run(&shares);
        }
        std::mem::take(&mut self.events)
    }

    /// Starts waiting texts while there is a place and memory for their prompts.
    fn admit(&mut self) {
        while let Some(next) = self.waiting.front() {
            if next.is_done() {
                let sequence = self.waiting.pop_front().expect("it was there above");
                self.counters.prompt_tokens += sequence.prompt_len() as u64;
                self.events.push((sequence.id, Event::End { finish: Finish::Length, found: 0 }));
                continue;
            }
            let fits = self.shape.blocks_for(next.goal()) <= self.blocks.available();
            if self.running.len() == self.shape.sequences || !(fits || self.running.is_empty()) {
                return;
            }
            let sequence = self.waiting.pop_front().expect("it was there above");
            self.running.push(sequence);
        }
    }

    /// Shares of the next pass, and the blocks they need.
    fn plan(&mut self) -> Vec<Share> {
        let mut shares = Vec::new();
        let mut rows = self.shape.rows;
        let mut decoding = self.running.iter().filter(|sequence| sequence.is_decoding()).count();
        let mut in_work = HashSet::new();
        let mut index = 0;
        while index < self.running.len() {
            let was_decoding = self.running[index].is_decoding();
            decoding -= usize::from(was_decoding);
            let budget = rows - decoding.min(rows);
            if budget > 0
                && let Some((from, to)) = self.piece(index, budget, &mut in_work)
            {
                if !self.reserve(index, to) {
                    // It was the youngest, and waits now.
                    break;
                }
                let sequence = &self.running[index];
                shares.push(Share { index, from, to, logits: sequence.wanted_rows(to) });
                rows -= to - from;
                decoding = self.running[index + 1..].iter().filter(|s| s.is_decoding()).count();
            }
            index += 1;
        }
        shares
    }

    /// The next tokens of `running[index]` to compute, at most `budget`; what memory holds of them is taken
    /// from there. None while another text computes the same block.
    fn piece(&mut self, index: usize, budget: usize, in_work: &mut HashSet<Name>) -> Option<(usize, usize)> {
        let Shape { block, prefix_mask, .. } = self.shape;
        let sequence = &mut self.running[index];
        let goal = sequence.goal();
        if prefix_mask {
            let to =
                if sequence.fed == 0 { sequence.whole_prompt() } else { goal.min(sequence.fed + budget) };
            return (to - sequence.fed <= budget).then_some((sequence.fed, to));
        }
        let begin = sequence.fed;
        let last = sequence.first_wanted_row();
        while sequence.fed.is_multiple_of(block) && sequence.fed + block <= last {
            let name = sequence.name(sequence.fed / block, block);
            let Some(number) = self.blocks.find(&name) else { break };
            sequence.blocks.push(number);
            sequence.fed += block;
        }
        self.counters.found_tokens += (sequence.fed - begin) as u64;
        sequence.found += sequence.fed - begin;
        let from = sequence.fed;
        let mut to = goal.min(from + budget);
        if to < goal && to / block * block > from {
            to = to / block * block;
        }
        if from.is_multiple_of(block) && from + block <= last {
            let name = sequence.name(from / block, block);
            if !in_work.insert(name) {
                return None;
            }
        }
        Some((from, to))
    }

    /// Gives `running[index]` blocks for `tokens` tokens, taking them from the youngest if need be; false when
    /// it was itself the youngest.
    fn reserve(&mut self, index: usize, tokens: usize) -> bool {
        while self.running[index].blocks.len() < self.shape.blocks_for(tokens) {
            if let Some(number) = self.blocks.take() {
                self.running[index].blocks.push(number);
                continue;
            }
            let youngest = self.running.len() - 1;
            let mut sequence = self.running.remove(youngest);
            self.blocks.release(&mut sequence.blocks);
            sequence.fed = 0;
            self.counters.preemptions += 1;
            self.waiting.push_front(sequence);
            if youngest == index {
                return false;
            }
        }
        true
    }

    fn run(&mut self, shares: &[Share]) {
        // Copies, a few numbers beside a pass: the rows' outcomes lengthen the texts while the pass runs.
        let inputs: Vec<(Vec<u32>, Vec<u32>)> = shares
            .iter()
            .map(|share| {
                let sequence = &self.running[share.index];
                (sequence.tokens[share.from..share.to].to_vec(), sequence.blocks.clone())
            })
            .collect();
        let parts: Vec<Part<'_>> = shares
            .iter()
            .zip(&inputs)
            .map(|(share, (tokens, blocks))| Part { tokens, past: share.from, blocks, logits: share.logits })
            .collect();
        let wanted: Vec<(usize, usize)> = shares
            .iter()
            .flat_map(|share| (share.to - share.logits..share.to).map(|row| (share.index, row)))
            .collect();
        let mut outcomes = Vec::with_capacity(wanted.len());
        let running = &mut self.running;
        self.network.step(&parts, &mut |row, logits| {
            let (index, behind) = wanted[row];
            outcomes.push((index, running[index].take(behind, logits)));
        });
        self.counters.passes += 1;
        for share in shares {
            self.keep(share);
        }
        let mut over = Vec::new();
        for (index, outcome) in outcomes {
            let finish = self.tell(index, outcome);
            over.extend(finish.map(|event| (index, event)));
        }
        for share in shares {
            let sequence = &self.running[share.index];
            if sequence.is_done() && over.iter().all(|&(index, _)| index != share.index) {
                over.push((share.index, Event::End { finish: Finish::Length, found: sequence.found }));
            }
        }
        over.sort_by_key(|&(index, _)| std::cmp::Reverse(index));
        // A failed row may be followed by others of its text: the first ending counts.
        over.dedup_by_key(|&mut (index, _)| index);
        for (index, event) in over {
            let mut sequence = self.running.remove(index);
            self.blocks.release(&mut sequence.blocks);
            self.counters.prompt_tokens += sequence.prompt_len() as u64;
            self.events.push((sequence.id, event));
        }
    }

    /// The share's tokens are in memory; its full blocks can be found.
    fn keep(&mut self, share: &Share) {
        let block = self.shape.block;
        let sequence = &mut self.running[share.index];
        sequence.fed = share.to;
        if !self.shape.prefix_mask {
            for index in share.from / block..share.to / block {
                let name = sequence.name(index, block);
                self.blocks.publish(sequence.blocks[index], name);
            }
        }
    }

    /// Makes events of a row's outcome; the last one, if it ends the text, is returned.
    fn tell(&mut self, index: usize, outcome: Result<Outcome, SamplingError>) -> Option<Event> {
        let sequence = &mut self.running[index];
        match outcome {
            Err(error) => Some(Event::Failed(error.into())),
            Ok(Outcome::Prompt(place, score)) => {
                self.events.push((sequence.id, Event::Prompt { place, score }));
                None
            }
            Ok(Outcome::Token(score)) => {
                let (finish, belongs) = sequence.ending(self.shape.context);
                self.counters.new_tokens += 1;
                let event = if belongs { Event::Token(score) } else { Event::Stop(score) };
                self.events.push((sequence.id, event));
                finish.map(|finish| Event::End { finish, found: sequence.found })
            }
        }
    }

    /// Runs jobs to their ends; the events of each in the order of `jobs`.
    fn run_all(&mut self, jobs: Vec<Job>) -> Result<Vec<Vec<Event>>, InferError> {
        for job in &jobs {
            job.check(self.shape.vocab, self.shape.context)?;
        }
        let mut places = HashMap::new();
        let mut results: Vec<Vec<Event>> = jobs.iter().map(|_| Vec::new()).collect();
        for (place, job) in jobs.into_iter().enumerate() {
            places.insert(self.submit(job)?, place);
        }
        let mut failure = None;
        while !self.is_idle() {
            for (id, event) in self.step() {
                let Some(&place) = places.get(&id) else { continue };
                if let Event::Failed(error) = event {
                    places.keys().for_each(|&id| self.cancel(id));
                    failure.get_or_insert(error);
                } else {
                    results[place].push(event);
                }
            }
        }
        failure.map_or(Ok(results), Err)
    }
}

impl Scorer for Engine {
    fn vocab(&self) -> usize {
        self.shape.vocab
    }

    fn context_length(&self) -> usize {
        self.shape.context
    }

    fn score(&mut self, requests: &[ScoreRequest]) -> Result<Vec<ScoreReply>, InferError> {
        let jobs = requests.iter().map(|request| Job::score(request, self.start)).collect();
        let results = self.run_all(jobs)?;
        Ok(results.into_iter().map(reply).collect())
    }

    fn generate(&mut self, requests: &[GenerateRequest]) -> Result<Vec<Generated>, InferError> {
        let jobs = requests.iter().map(|request| Job::generate(request, self.start)).collect();
        let results = self.run_all(jobs)?;
        Ok(results.into_iter().map(generated).collect())
    }
}

fn reply(events: Vec<Event>) -> ScoreReply {
    let mut reply = ScoreReply::default();
    for event in events {
        if let Event::Prompt { score, .. } = event {
            reply.log_probs.push(score.log_prob);
            reply.greedy.push(score.greedy);
            reply.top.push(score.top);
        }
    }
    reply
}

fn generated(events: Vec<Event>) -> Generated {
    let mut generated = Generated { tokens: Vec::new(), finish: Finish::Cancelled };
    for event in events {
        match event {
            Event::Token(score) => generated.tokens.push(score),
            Event::End { finish, .. } => generated.finish = finish,
            Event::Prompt { .. } | Event::Stop(_) | Event::Failed(_) => {}
        }
    }
    generated
}

#[cfg(test)]
mod tests;
