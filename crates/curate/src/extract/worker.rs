//! Extraction in a thread of its own, so that a page that takes for ever, or breaks the algorithm, costs that page.

use super::{Extract, Extracted, Extractor, extract, extractor};
use crate::step::Reason;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// The algorithms recurse with the tree; its depth is bounded, this is what it needs with room to spare. Pages of
/// memory that are never touched cost nothing.
pub const STACK: usize = 64 << 20;

/// One thread's way to extract.
pub struct Worker {
    settings: Arc<Extract>,
    extractor: Arc<dyn Extractor>,
    thread: Option<Thread>,
}

struct Thread {
    pages: SyncSender<Page>,
    outcomes: Receiver<Result<Extracted, Reason>>,
}

struct Page {
    html: Vec<u8>,
    charset: Option<String>,
    url: Option<String>,
}

impl Worker {
    pub fn new(settings: &Extract) -> Self {
        let extractor = Arc::from(extractor(settings));
        Self { settings: Arc::new(settings.clone()), extractor, thread: None }
    }

    /// As [`extract`], with the bound on time.
    ///
    /// # Errors
    /// As [`extract`]; also when the page takes too long or breaks the algorithm.
    pub fn extract(
        &mut self,
        html: Vec<u8>,
        charset: Option<String>,
        url: Option<String>,
    ) -> Result<Extracted, Reason> {
        let thread = match self.thread.take() {
            Some(thread) => thread,
            None => self.start()?,
        };
        let broken = || Reason::new("extraction_panic");
        thread.pages.send(Page { html, charset, url }).map_err(|_| broken())?;
        match thread.outcomes.recv_timeout(Duration::from_secs_f64(self.settings.max_seconds)) {
            Ok(outcome) => {
                self.thread = Some(thread);
                outcome
            }
            // The thread is left to end by itself: its channel is closed.
            Err(RecvTimeoutError::Timeout) => Err(Reason::measured(
                "extraction_timeout",
                format_args!("above {} s", self.settings.max_seconds),
            )),
            Err(RecvTimeoutError::Disconnected) => Err(broken()),
        }
    }

    fn start(&self) -> Result<Thread, Reason> {
        let (pages, inbox) = sync_channel::<Page>(1);
        let (outbox, outcomes) = sync_channel(1);
        let (settings, extractor) = (self.settings.clone(), self.extractor.clone());
        let work = move || {
            for page in inbox {
                let (charset, url) = (page.charset.as_deref(), page.url.as_deref());
                let outcome = extract(&page.html, charset, url, &settings, &*extractor);
                if outbox.send(outcome).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("extract".into()).stack_size(STACK).spawn(work);
        thread.map_err(|error| Reason::measured("extraction_failed", error))?;
        Ok(Thread { pages, outcomes })
    }
}

#[cfg(test)]
mod tests {
    use super::super::MainText;
    use super::*;

    struct Odd;

    impl Extractor for Odd {
        fn main_text(&self, html: &str, _: Option<&str>) -> Result<MainText, Reason> {
            match html {
                "slow" => std::thread::sleep(Duration::from_secs(20)),
                "broken" => panic!("as the test wants"),
                _ => {}
            }
            Ok(MainText { text: html.to_owned(), title: String::new() })
        }
    }

    #[test]
    fn a_slow_or_breaking_page_costs_that_page() {
        let settings = Extract { max_seconds: 3.0, ..Extract::default() };
        let mut worker = Worker { settings: Arc::new(settings), extractor: Arc::new(Odd), thread: None };
        let mut label = |html: &str| match worker.extract(html.into(), None, None) {
            Ok(found) => found.text,
            Err(reason) => reason.label.into_owned(),
        };
        let found = ["one", "slow", "two", "broken", "three"].map(&mut label);
        assert_eq!(found, ["one", "extraction_timeout", "two", "extraction_panic", "three"]);
    }

    #[test]
    fn deep_trees_within_the_bound_fit_the_stack() {
        let settings = Extract { max_depth: 2000, ..Extract::default() };
        let mut worker = Worker::new(&settings);
        let text = "A sentence that is long enough to be worth keeping in a test of deep trees. ".repeat(9);
        let html = format!("{}<p>{text}</p>{}", "<div>".repeat(1990), "</div>".repeat(1990));
        let outcome = worker.extract(html.into_bytes(), None, None);
        assert!(!matches!(&outcome, Err(reason) if reason.label == "extraction_panic"), "{outcome:?}");
    }
}
