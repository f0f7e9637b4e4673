//! What the server tells Prometheus.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use triax_infer::Counters;

/// Upper bounds in seconds: 2 ms to 65 s, each twice the one before.
fn seconds() -> Histogram {
    Histogram::new((0..16).map(|power| 0.002 * f64::from(1u32 << power)))
}

pub(crate) struct Metrics {
    registry: Registry,
    running: Gauge,
    waiting: Gauge,
    blocks: Gauge,
    blocks_used: Gauge,
    prompt_tokens: Counter,
    prefix_hits: Counter,
    new_tokens: Counter,
    preemptions: Counter,
    pub(crate) first_token: Histogram,
    pub(crate) between_tokens: Histogram,
    pub(crate) whole: Histogram,
    pub(crate) cancelled: Counter,
    /// By status.
    pub(crate) responses: Family<[(&'static str, String); 1], Counter>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let metrics = Self {
            registry: Registry::default(),
            running: Gauge::default(),
            waiting: Gauge::default(),
            blocks: Gauge::default(),
            blocks_used: Gauge::default(),
            prompt_tokens: Counter::default(),
            prefix_hits: Counter::default(),
            new_tokens: Counter::default(),
            preemptions: Counter::default(),
            first_token: seconds(),
            between_tokens: seconds(),
            whole: seconds(),
            cancelled: Counter::default(),
            responses: Family::default(),
        };
        metrics.registered()
    }

    fn registered(mut self) -> Self {
        let mut registry = Registry::with_prefix("triax");
        registry.register("texts_running", "Texts under way", self.running.clone());
        registry.register("texts_waiting", "Texts that wait to begin", self.waiting.clone());
        registry.register("kv_blocks", "Blocks of keys and values in all", self.blocks.clone());
        registry.register("kv_blocks_used", "Blocks held by texts under way", self.blocks_used.clone());
        registry.register(
            "prompt_tokens",
            "Tokens of prompts of texts that ended",
            self.prompt_tokens.clone(),
        );
        registry.register("prefix_hit_tokens", "Prompt tokens found in memory", self.prefix_hits.clone());
        registry.register("new_tokens", "Tokens made", self.new_tokens.clone());
        registry.register(
            "preemptions",
            "Texts that gave their memory up for older ones",
            self.preemptions.clone(),
        );
        registry.register("cancelled", "Texts whose client has gone", self.cancelled.clone());
        registry.register("responses", "Answers by status", self.responses.clone());
        let mut time = |name, help, histogram: &Histogram| {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        };
        time("time_to_first_token", "From a text's arrival to its first new token", &self.first_token);
        time("time_between_tokens", "Between two new tokens of a text", &self.between_tokens);
        time("text_time", "From a text's arrival to its end", &self.whole);
        self.registry = registry;
        self
    }

    /// The engine went from `before` to `now`.
    pub(crate) fn update(&self, before: &Counters, now: &Counters) {
        self.running.set(now.running as i64);
        self.waiting.set(now.waiting as i64);
        self.blocks.set(now.blocks as i64);
        self.blocks_used.set(now.blocks_held as i64);
        self.prompt_tokens.inc_by(now.prompt_tokens - before.prompt_tokens);
        self.prefix_hits.inc_by(now.found_tokens - before.found_tokens);
        self.new_tokens.inc_by(now.new_tokens - before.new_tokens);
        self.preemptions.inc_by(now.preemptions - before.preemptions);
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
