//! What is measured, against whom, and how good it must be. This table is the contract; the other modules of
//! the bench only carry it out.

/// A results file, `bench/results/<topic>.jsonl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Topic {
    Train,
    Memory,
    Gemm,
    Tokenize,
    Build,
    Demo,
    Curate,
    Decode,
    Serve,
    Evaluate,
    Layouts,
    All,
}

impl Topic {
    pub(super) const fn file(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Memory => "memory",
            Self::Gemm => "gemm",
            Self::Tokenize => "tokenize",
            Self::Build => "build",
            Self::Demo => "demo",
            Self::Curate => "curate",
            Self::Decode => "decode",
            Self::Serve => "serve",
            Self::Evaluate => "evaluate",
            Self::Layouts => "layouts",
            Self::All => "all",
        }
    }

    pub(super) const FILES: [Self; 11] = [
        Self::Train,
        Self::Memory,
        Self::Gemm,
        Self::Tokenize,
        Self::Build,
        Self::Demo,
        Self::Curate,
        Self::Decode,
        Self::Serve,
        Self::Evaluate,
        Self::Layouts,
    ];
}

/// Which side of `at_least` and `aim` is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Better {
    Higher,
    Lower,
}

impl Better {
    pub(super) fn reaches(self, value: f64, bound: f64) -> bool {
        match self {
            Self::Higher => value >= bound,
            Self::Lower => value <= bound,
        }
    }
}

/// One number with its bounds. With an opponent the bounds are on the ratio ours / opponent's, without one on
/// our value itself.
pub(super) struct Figure {
    pub(super) name: String,
    pub(super) topic: Topic,
    pub(super) unit: &'static str,
    /// The field of both sides' JSON that holds the number.
    pub(super) field: &'static str,
    pub(super) better: Better,
    pub(super) at_least: f64,
    pub(super) aim: f64,
}

/// One sitting; gives all its figures at once.
pub(super) struct Workload {
    pub(super) name: &'static str,
    pub(super) sides: Sides,
    pub(super) figures: Vec<Figure>,
}

/// What runs. `{…}` in an argument is filled in by [`super::measure`].
#[derive(Clone, Copy)]
pub(super) enum Sides {
    /// `triax bench train` against every variant of PyTorch.
    Train { ours: &'static [&'static str], peer: &'static [&'static str] },
    /// `triax bench gemm` against the peak it measures itself.
    Gemm,
    /// `triax bench tokenize` against Hugging Face tokenizers.
    Tokenize,
    /// `triax bench curate --step …` against the package that does the same, each on one thread.
    Curate(&'static str),
    /// `triax bench curate --step filters` with this chain against datatrove's filters, each on one thread.
    Filters(&'static str),
    /// A cold release build.
    Build,
    /// `triax bench decode` of SmolLM2-135M (Q4_1) against llama.cpp, two threads each.
    Decode { batch: &'static str },
    /// `triax serve` of SmolLM2-135M (Q4_1) under 1, 8 and 32 clients against llama.cpp's server, two threads each.
    Serve,
    /// What echo with log-probabilities of a full context takes more memory than the context without them.
    Echo,
    /// `triax eval` of SmolLM2-135M (Q4_1) on LAMBADA, PiQA, BoolQ and WiC against lm-eval, two threads each.
    Evaluate,
    /// `triax demo` against xz on the held-out text, and against PyTorch on the model it trained.
    Demo,
    /// `triax bench train` in a layout or mode, against the same in another; and against PyTorch's own parallelism on two
    /// processes over gloo, where `peer` names an axis.
    Layout { ours: &'static [&'static str], other: &'static [&'static str], peer: &'static [&'static str] },
    /// How long a save stops `triax train` of GPT-2 124M, batch 4 × 256.
    Save,
    /// Steps over many documents, against a program of bench/peers, on one made-up corpus.
    Corpus(Corpus),
}

/// A step of curation on a corpus of bench/peers/curate_corpus.py.
#[derive(Clone, Copy)]
pub(super) struct Corpus {
    pub(super) step: &'static str,
    pub(super) language: &'static str,
    pub(super) megabytes: u32,
    /// The opponent gets so much from the start of the corpus, since all of it would take it an hour.
    pub(super) peer_megabytes: u32,
}

impl Workload {
    pub(super) fn concerns(&self, topic: Topic) -> bool {
        topic == Topic::All || self.figures.iter().any(|figure| figure.topic == topic)
    }
}

/// Ways to run PyTorch; the fastest one counts.
pub(super) const PYTORCH: [&[&str]; 4] = [
    &["--dtype", "f32"],
    &["--dtype", "bf16"],
    &["--dtype", "f32", "--compile"],
    &["--dtype", "bf16", "--compile"],
];

/// tokens × outputs × inputs, as `triax bench gemm` names them.
const GEMM_SHAPES: [&str; 4] = ["1024x768x768", "1024x3072x768", "1024x768x3072", "1024x50304x768"];
const GEMM_PRODUCTS: [&str; 3] = ["forward", "input_gradient", "weight_gradient"];

pub(super) fn workloads() -> Vec<Workload> {
    vec![
        Workload {
            name: "gpt2-124m-4x256",
            sides: Sides::Train {
                ours: &[
                    "--model",
                    "gpt2-124m",
                    "--batch",
                    "4",
                    "--seq",
                    "256",
                    "--dtype",
                    "bf16",
                    "--steps",
                    "5",
                ],
                peer: &["--batch", "4", "--seq", "256", "--steps", "5"],
            },
            figures: training("gpt2-124m-4x256"),
        },
        Workload {
            name: "gpt2-124m-1x1024",
            sides: Sides::Train {
                ours: &[
                    "--model",
                    "gpt2-124m",
                    "--batch",
                    "1",
                    "--seq",
                    "1024",
                    "--dtype",
                    "bf16",
                    "--steps",
                    "5",
                ],
                peer: &["--batch", "1", "--seq", "1024", "--steps", "5"],
            },
            figures: training("gpt2-124m-1x1024"),
        },
        Workload { name: "gemm", sides: Sides::Gemm, figures: gemm() },
        Workload {
            name: "tokenize",
            sides: Sides::Tokenize,
            figures: vec![figure(
                "tokenize.mb_per_s",
                Topic::Tokenize,
                "MB/s",
                "mb_per_s",
                Better::Higher,
                1.0,
                2.0,
            )],
        },
        Workload {
            name: "curate-read",
            sides: Sides::Curate("read"),
            figures: vec![figure(
                "curate.read.docs_per_s",
                Topic::Curate,
                "records/s",
                "docs_per_s",
                Better::Higher,
                1.0,
                1.5,
            )],
        },
        Workload {
            name: "curate-extract",
            sides: Sides::Curate("extract"),
            figures: vec![figure(
                "curate.extract.docs_per_s",
                Topic::Curate,
                "pages/s",
                "docs_per_s",
                Better::Higher,
                5.0,
                10.0,
            )],
        },
        Workload {
            name: "curate-filters-en",
            sides: Sides::Filters("crawl-en"),
            figures: vec![figure(
                "curate.filters.en.mb_per_s",
                Topic::Curate,
                "MB/s of text",
                "mb_per_s",
                Better::Higher,
                10.0,
                30.0,
            )],
        },
        Workload {
            name: "curate-filters-zh",
            sides: Sides::Filters("crawl-zh"),
            figures: vec![figure(
                "curate.filters.zh.mb_per_s",
                Topic::Curate,
                "MB/s of text",
                "mb_per_s",
                Better::Higher,
                5.0,
                10.0,
            )],
        },
        Workload {
            name: "cold-build",
            sides: Sides::Build,
            figures: vec![figure("build.cold", Topic::Build, "s", "seconds", Better::Lower, 240.0, 120.0)],
        },
        Workload {
            name: "smollm2-135m-batch-1",
            sides: Sides::Decode { batch: "1" },
            figures: vec![
                decoding("smollm2-135m-batch-1.prefill", "prefill_tokens_per_s", 3.0, 6.0),
                decoding("smollm2-135m-batch-1.decode", "decode_tokens_per_s", 1.2, 2.0),
            ],
        },
        Workload {
            name: "smollm2-135m-batch-8",
            sides: Sides::Decode { batch: "8" },
            figures: vec![decoding("smollm2-135m-batch-8.decode", "decode_tokens_per_s", 1.5, 3.0)],
        },
        layout(
            "layout-tensor-2",
            Sides::Layout {
                ours: &["--batch", "4", "--layout", "tp=2"],
                other: &["--batch", "4"],
                peer: &["--axis", "tensor", "--batch", "4"],
            },
        ),
        layout(
            "layout-pipeline-2",
            Sides::Layout {
                ours: &["--batch", "16", "--micro-batches", "16", "--layout", "pp=2"],
                other: &["--batch", "16", "--micro-batches", "16"],
                peer: &["--axis", "pipeline", "--batch", "16", "--micro-batches", "16"],
            },
        ),
        layout(
            "layout-data-2",
            Sides::Layout {
                ours: &["--batch", "4", "--layout", "dp=2,zero=1"],
                other: &["--batch", "4"],
                peer: &["--axis", "data", "--batch", "4"],
            },
        ),
        Workload {
            name: "numerics-exact",
            sides: Sides::Layout {
                ours: &["--batch", "4", "--numerics", "exact"],
                other: &["--batch", "4", "--numerics", "fast"],
                peer: &[],
            },
            figures: vec![figure(
                "numerics-exact.of_fast",
                Topic::Layouts,
                "tokens/s",
                "tokens_per_s",
                Better::Higher,
                0.9,
                0.97,
            )],
        },
        Workload {
            name: "save-gpt2-124m",
            sides: Sides::Save,
            figures: vec![figure(
                "save-gpt2-124m.share",
                Topic::Layouts,
                "of a step, saving every 50",
                "share",
                Better::Lower,
                0.05,
                0.01,
            )],
        },
        Workload {
            name: "serve-smollm2-135m",
            sides: Sides::Serve,
            // One client alone is the batch of one of `decode`.
            figures: vec![
                serving("serve-smollm2-135m.clients-1", "clients_1", 1.0, 1.2),
                serving("serve-smollm2-135m.clients-8", "clients_8", 1.2, 2.0),
                serving("serve-smollm2-135m.clients-32", "clients_32", 1.2, 2.0),
            ],
        },
        Workload {
            name: "serve-echo",
            sides: Sides::Echo,
            figures: vec![figure(
                "serve-echo.extra_mb",
                Topic::Serve,
                "MiB",
                "echo_extra_mb",
                Better::Lower,
                64.0,
                32.0,
            )],
        },
        Workload {
            name: "evaluate-smollm2-135m",
            sides: Sides::Evaluate,
            figures: vec![figure(
                "evaluate-smollm2-135m.items_per_s",
                Topic::Evaluate,
                "items/s",
                "items_per_s",
                Better::Higher,
                3.0,
                10.0,
            )],
        },
        Workload {
            name: "demo",
            sides: Sides::Demo,
            figures: vec![
                figure("demo.bits_per_byte", Topic::Demo, "bit/B", "bits_per_byte", Better::Lower, 1.0, 0.75),
                figure(
                    "demo.bits_per_byte_with_memory",
                    Topic::Demo,
                    "bit/B",
                    "bits_per_byte_with_memory",
                    Better::Lower,
                    1.0,
                    0.75,
                ),
                figure("demo.seconds", Topic::Demo, "s", "seconds", Better::Lower, 300.0, 240.0),
                figure(
                    "demo.tokens_per_s",
                    Topic::Train,
                    "tokens/s",
                    "tokens_per_s",
                    Better::Higher,
                    1.2,
                    1.4,
                ),
            ],
        },
        corpus(
            "minhash-en",
            Corpus { step: "minhash", language: "en", megabytes: 210, peer_megabytes: 5 },
            10.0,
            30.0,
        ),
        corpus(
            "minhash-zh",
            Corpus { step: "minhash", language: "zh", megabytes: 60, peer_megabytes: 5 },
            5.0,
            10.0,
        ),
        corpus(
            "dedup-en",
            Corpus { step: "dedup", language: "en", megabytes: 210, peer_megabytes: 10 },
            5.0,
            20.0,
        ),
        corpus(
            "dedup-zh",
            Corpus { step: "dedup", language: "zh", megabytes: 60, peer_megabytes: 5 },
            5.0,
            10.0,
        ),
        corpus(
            "tokenize-en",
            Corpus { step: "tokenize", language: "en", megabytes: 60, peer_megabytes: 60 },
            2.0,
            4.0,
        ),
    ]
}

/// Speeds of one core; of a whole deduplication also what it found of the planted copies.
fn corpus(name: &'static str, workload: Corpus, at_least: f64, aim: f64) -> Workload {
    let speed = format!("{name}.mb_per_s");
    let mut figures = vec![figure(&speed, Topic::Curate, "MB/s", "mb_per_s", Better::Higher, at_least, aim)];
    if workload.step == "dedup" {
        for field in ["precision", "recall"] {
            let name = format!("{name}.{field}");
            figures.push(figure(&name, Topic::Curate, "share", field, Better::Higher, 0.98, 1.0));
        }
    }
    Workload { name, sides: Sides::Corpus(workload), figures }
}

fn figure(
    name: &str,
    topic: Topic,
    unit: &'static str,
    field: &'static str,
    better: Better,
    at_least: f64,
    aim: f64,
) -> Figure {
    Figure { name: name.to_owned(), topic, unit, field, better, at_least, aim }
}

/// A layout of two ranks on two cores.
fn layout(name: &'static str, sides: Sides) -> Workload {
    let speed = |other: &str, at_least, aim| {
        let name = format!("{name}.{other}");
        figure(&name, Topic::Layouts, "tokens/s", "tokens_per_s", Better::Higher, at_least, aim)
    };
    Workload { name, sides, figures: vec![speed("of_one_rank", 0.85, 0.95), speed("of_pytorch", 1.5, 2.5)] }
}

fn decoding(name: &str, field: &'static str, at_least: f64, aim: f64) -> Figure {
    figure(name, Topic::Decode, "tokens/s", field, Better::Higher, at_least, aim)
}

fn serving(name: &str, field: &'static str, at_least: f64, aim: f64) -> Figure {
    figure(name, Topic::Serve, "tokens/s", field, Better::Higher, at_least, aim)
}

fn training(workload: &str) -> Vec<Figure> {
    let name = |field| format!("{workload}.{field}");
    vec![
        figure(&name("tokens_per_s"), Topic::Train, "tokens/s", "tokens_per_s", Better::Higher, 1.2, 1.4),
        figure(&name("peak_rss_mb"), Topic::Memory, "MB", "peak_rss_mb", Better::Lower, 0.85, 0.75),
    ]
}

fn gemm() -> Vec<Figure> {
    let products =
        GEMM_SHAPES.iter().flat_map(|shape| GEMM_PRODUCTS.iter().map(move |product| (shape, product)));
    products
        .map(|(shape, product)| {
            let name = format!("gemm.{shape}.{product}");
            figure(&name, Topic::Gemm, "GFLOP/s", "gflops", Better::Higher, 0.80, 0.92)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_the_aim_is_beyond_the_least() {
        let figures: Vec<_> = workloads().into_iter().flat_map(|workload| workload.figures).collect();
        for (index, figure) in figures.iter().enumerate() {
            assert!(figures[..index].iter().all(|other| other.name != figure.name), "{}", figure.name);
            assert!(figure.better.reaches(figure.aim, figure.at_least), "{}", figure.name);
        }
    }
}
