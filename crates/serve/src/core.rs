//! The engine's own thread: takes jobs on and off between passes, and hands each pass's events to whoever asked.

use crate::error::ApiError;
use crate::metrics::Metrics;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;
use tokio::sync::mpsc::UnboundedSender;
use triax_infer::{Counters, Engine, Event, InferError, Job, JobId, Shape};

/// An event of the job with this number within its request.
pub(crate) type Message = (usize, Event);

enum Command {
    Submit { key: u64, number: usize, job: Box<Job>, to: UnboundedSender<Message> },
    Cancel(u64),
    Stop,
}

/// Access to the engine's thread.
pub(crate) struct Core {
    commands: Sender<Command>,
    next_key: AtomicU64,
    state: Arc<State>,
    pub(crate) shape: Shape,
    pub(crate) document_start: Option<u32>,
    /// Texts that may be under way or waiting.
    most: usize,
    pub(crate) metrics: Arc<Metrics>,
}

#[derive(Default)]
struct State {
    /// Jobs taken on and not over.
    jobs: AtomicUsize,
    stopping: AtomicBool,
    /// The thread has ended: by [`Core::stop`], or because the engine panicked.
    ended: AtomicBool,
}

impl Core {
    /// Starts the thread; `queue` texts may wait beside those that run.
    pub(crate) fn start(engine: Engine, queue: usize) -> (Arc<Self>, JoinHandle<()>) {
        let (commands, receiver) = channel();
        let shape = engine.shape();
        let core = Arc::new(Self {
            commands,
            next_key: AtomicU64::new(0),
            state: Arc::default(),
            shape,
            document_start: engine.document_start(),
            most: shape.sequences + queue,
            metrics: Arc::new(Metrics::new()),
        });
        let state = Arc::clone(&core.state);
        let metrics = Arc::clone(&core.metrics);
        let thread = std::thread::spawn(move || {
            let ended = Ended(Arc::clone(&state));
            let mut driver = Driver { engine, state, metrics, clients: HashMap::new(), ids: HashMap::new() };
            driver.run(&receiver);
            drop(ended);
        });
        (core, thread)
    }

    /// Takes all `jobs` on, or none; the keys name them.
    ///
    /// # Errors
    /// When there is no room (now, or ever), or the server is stopping.
    pub(crate) fn submit(&self, jobs: Vec<Job>, to: &UnboundedSender<Message>) -> Result<Vec<u64>, ApiError> {
        if self.is_ended() {
            return Err(ApiError::internal("the engine has stopped; see the server's log"));
        }
        if self.is_stopping() {
            return Err(ApiError::stopping());
        }
        let asked = jobs.len();
        if asked > self.most {
            return Err(ApiError::too_many(asked, self.most));
        }
        let room = |held: usize| (held + asked <= self.most).then_some(held + asked);
        if let Err(held) = self.state.jobs.fetch_update(Ordering::AcqRel, Ordering::Acquire, room) {
            return Err(ApiError::full(held, asked));
        }
        let mut keys = Vec::with_capacity(asked);
        for (number, job) in jobs.into_iter().enumerate() {
            let key = self.next_key.fetch_add(1, Ordering::Relaxed);
            // Fails only when the thread has just ended; then the receiver sees its channel closed.
            let _ = self.commands.send(Command::Submit { key, number, job: Box::new(job), to: to.clone() });
            keys.push(key);
        }
        Ok(keys)
    }

    /// The job's client has gone; over jobs are left alone.
    pub(crate) fn cancel(&self, key: u64) {
        let _ = self.commands.send(Command::Cancel(key));
    }

    /// No new jobs from now on.
    pub(crate) fn drain(&self) {
        self.state.stopping.store(true, Ordering::Release);
    }

    /// Ends the thread, whatever is under way.
    pub(crate) fn stop(&self) {
        let _ = self.commands.send(Command::Stop);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.state.stopping.load(Ordering::Acquire)
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.state.ended.load(Ordering::Acquire)
    }

    /// Jobs taken on and not over.
    pub(crate) fn jobs(&self) -> usize {
        self.state.jobs.load(Ordering::Acquire)
    }
}

/// Tells that the thread has ended, by whatever way.
struct Ended(Arc<State>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
    }
}

struct Client {
    key: u64,
    number: usize,
    to: UnboundedSender<Message>,
    began: Instant,
    last_token: Option<Instant>,
}

struct Driver {
    engine: Engine,
    state: Arc<State>,
    metrics: Arc<Metrics>,
    clients: HashMap<JobId, Client>,
    ids: HashMap<u64, JobId>,
}

impl Driver {
    fn run(&mut self, commands: &Receiver<Command>) {
        let mut told = Counters::default();
        loop {
            // Nothing to compute: sleep until someone asks.
            if self.engine.is_idle() {
                self.tell(&mut told);
                match commands.recv() {
                    Ok(command) => {
                        if !self.obey(command) {
                            return;
                        }
                    }
                    Err(_) => return,
                }
            }
            while let Ok(command) = commands.try_recv() {
                if !self.obey(command) {
                    return;
                }
            }
            for (id, event) in self.engine.step() {
                self.deliver(id, event);
            }
            self.tell(&mut told);
        }
    }

    fn tell(&self, told: &mut Counters) {
        let now = self.engine.counters();
        self.metrics.update(told, &now);
        *told = now;
    }

    /// False: end.
    fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Submit { key, number, job, to } => match self.engine.submit(*job) {
                Ok(id) => {
                    self.ids.insert(key, id);
                    let client = Client { key, number, to, began: Instant::now(), last_token: None };
                    self.clients.insert(id, client);
                }
                Err(error) => self.refuse(number, &to, error),
            },
            Command::Cancel(key) => {
                if let Some(id) = self.ids.get(&key).copied() {
                    self.engine.cancel(id);
                    self.forget(id);
                    self.metrics.cancelled.inc();
                }
            }
            Command::Stop => return false,
        }
        true
    }

    fn refuse(&self, number: usize, to: &UnboundedSender<Message>, error: InferError) {
        self.state.jobs.fetch_sub(1, Ordering::AcqRel);
        // A client that has gone hears nothing.
        let _ = to.send((number, Event::Failed(error)));
    }

    fn deliver(&mut self, id: JobId, event: Event) {
        // Events of a pass in which the job was cancelled find nobody.
        let Some(client) = self.clients.get_mut(&id) else { return };
        let over = matches!(event, Event::End { .. } | Event::Failed(_));
        if let Event::Token(_) = event {
            let now = Instant::now();
            let (histogram, since) = match client.last_token {
                None => (&self.metrics.first_token, client.began),
                Some(last) => (&self.metrics.between_tokens, last),
            };
            histogram.observe((now - since).as_secs_f64());
            client.last_token = Some(now);
        }
        let gone = client.to.send((client.number, event)).is_err();
        if over {
            self.metrics.whole.observe(client.began.elapsed().as_secs_f64());
            self.forget(id);
        } else if gone {
            self.engine.cancel(id);
            self.forget(id);
            self.metrics.cancelled.inc();
        }
    }

    fn forget(&mut self, id: JobId) {
        if let Some(client) = self.clients.remove(&id) {
            self.ids.remove(&client.key);
            self.state.jobs.fetch_sub(1, Ordering::AcqRel);
        }
    }
}
