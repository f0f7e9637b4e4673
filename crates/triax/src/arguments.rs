//! The command line, declared once: `--help`, errors and parsing all come from these types.

mod cluster;
mod eval;

pub(crate) use cluster::{Cluster, Coordinator, Worker};
pub(crate) use eval::{Eval, EvalOther, EvalPrompts, EvalTasks};

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::IpAddr;
use std::path::PathBuf;
use triax_curate::classifier::TrainConfig;
use triax_spec::run::{DeviceKind, Kernel, NumericsMode, Precision};

/// Raw text in, a trained giant language model out.
///
/// Human text goes to standard error. With --json, commands print one JSON object a line on standard output.
/// Exit codes: 0 done, 1 failed while running, 2 wrong use (nothing was started).
#[derive(Debug, Parser)]
#[command(name = "triax", version, max_term_width = 100, propagate_version = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Walk the whole road on real text in a few minutes, ending in a report
    Demo(Demo),
    /// Turn crawls and files into clean, deduplicated documents, as a recipe says
    Curate(Curate),
    /// Take a role in a cluster that joins what `curate --cluster` has collected
    #[command(subcommand)]
    Cluster(Cluster),
    /// Turn text into token files (.bin/.idx), training a tokenizer first if asked
    Tokenize(Tokenize),
    /// Say what a run will do and need, before anything is allocated
    Plan(Plan),
    /// Train a network as a run file says
    Train(Train),
    /// Prove that layouts give the same bits, or that a checkpoint is whole
    #[command(subcommand)]
    Verify(Verify),
    /// Continue a text
    Generate(Generate),
    /// Judge a network by tasks
    Eval(Box<Eval>),
    /// Answer requests over HTTP, with a page to try the network
    Serve(Serve),
    /// Make a checkpoint from another program's model
    Import(Import),
    /// Write a checkpoint for another program
    Export(Export),
    /// Measure training, matrix products or tokenizing on this machine
    #[command(subcommand)]
    Bench(Bench),
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// A text file or a folder of text files; by default the crates in cargo's registry
    #[arg(long)]
    pub(crate) input: Option<PathBuf>,
    /// Where everything goes: a new folder, or one that an earlier demo made
    #[arg(long, default_value = "demo-run")]
    pub(crate) out: PathBuf,
    /// How long the whole demo may take
    #[arg(long, default_value_t = 4.0, allow_negative_numbers = true)]
    pub(crate) minutes: f64,
    #[command(flatten)]
    pub(crate) device: DeviceArguments,
    /// Print the summary as one JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Curate {
    #[command(subcommand)]
    pub(crate) action: Option<CurateAction>,
    /// A recipe (TOML), or the name of a ready one: crawl-en, crawl-zh, files, mt-nlg
    #[arg(required = true)]
    pub(crate) recipe: Option<PathBuf>,
    /// Replace a value of the recipe: --set source.crawl.paths='["a.warc.gz"]' --set step.size.min_bytes=9
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Where everything goes: a new folder, or one to go on in
    #[arg(long, required_unless_present = "print")]
    pub(crate) out: Option<PathBuf>,
    /// This process of several on one output folder, from 0; launchers (Slurm, Kubernetes indexed jobs) are found
    #[arg(long)]
    pub(crate) rank: Option<u32>,
    /// How many processes share the work
    #[arg(long)]
    pub(crate) world: Option<u32>,
    /// Replaces run.threads of the recipe; 0 for all cores
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    /// Compare documents on a cluster: its coordinator, or in-process for one inside this program
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) cluster: Option<String>,
    /// Only print the recipe with every default written out
    #[arg(long)]
    pub(crate) print: bool,
    /// Print the result as one JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CurateAction {
    /// Show documents that a run has removed
    Inspect(Inspect),
    /// Train a quality classifier on examples of its classes
    TrainClassifier(TrainClassifier),
}

#[derive(Debug, Args)]
pub(crate) struct TrainClassifier {
    /// A class and a file of its examples, JSON lines with `text` or one text a line: --class high=good.jsonl; twice or
    /// more
    #[arg(long = "class", value_name = "LABEL=FILE", required = true)]
    pub(crate) classes: Vec<String>,
    /// Where the model goes
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// How texts are cut into words: en, zh (jieba) or other; the step `classifier` must be told the same
    #[arg(long, default_value = "en")]
    pub(crate) language: String,
    #[arg(long, default_value_t = TrainConfig::default().dimensions)]
    pub(crate) dimensions: usize,
    #[arg(long, default_value_t = TrainConfig::default().epochs)]
    pub(crate) epochs: usize,
    #[arg(long, default_value_t = TrainConfig::default().learning_rate)]
    pub(crate) learning_rate: f64,
    /// Share of the examples that is held out to measure the classifier
    #[arg(long, default_value_t = TrainConfig::default().held_out)]
    pub(crate) held_out: f64,
    #[arg(long, default_value_t = TrainConfig::default().seed)]
    pub(crate) seed: i32,
    /// Print the quality as one JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// The --out of a run
    pub(crate) folder: PathBuf,
    /// Only those removed for this reason, as gopher_short_doc
    #[arg(long)]
    pub(crate) reason: Option<String>,
    /// Only those removed by this step
    #[arg(long)]
    pub(crate) step: Option<String>,
    /// Only those of this source
    #[arg(long)]
    pub(crate) source: Option<String>,
    /// Most documents to show; 0 for all
    #[arg(long, default_value_t = 20)]
    pub(crate) limit: usize,
    /// Most characters of each text
    #[arg(long, default_value_t = 500)]
    pub(crate) characters: usize,
    /// Print each document whole, as one JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Tokenize {
    /// Text files: .txt, .jsonl (also .gz, .zst), .parquet, or folders of them
    #[arg(required = true)]
    pub(crate) inputs: Vec<PathBuf>,
    /// The tokenizer to use
    #[arg(long, conflicts_with_all = ["train_tokenizer", "vocab"], required_unless_present = "train_tokenizer")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// Train a tokenizer of this kind on the input first; it is written beside the output
    #[arg(long, requires = "vocab")]
    pub(crate) train_tokenizer: Option<TokenizerKind>,
    /// Size of the vocabulary to train
    #[arg(long)]
    pub(crate) vocab: Option<usize>,
    /// Common prefix of the .bin and .idx files
    #[arg(long)]
    pub(crate) output: PathBuf,
    /// The field of JSON lines, or the column of Parquet files, that holds the text
    #[arg(long, visible_alias = "column", default_value = "text")]
    pub(crate) field: String,
    /// Leave out documents that cannot be read (they are counted) instead of stopping
    #[arg(long)]
    pub(crate) skip_bad_lines: bool,
    /// Worker threads; 0 for all cores
    #[arg(long, default_value_t = 0)]
    pub(crate) threads: usize,
    /// Print the result as one JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum TokenizerKind {
    /// Byte-level BPE, as GPT-2
    Bpe,
    /// Unigram, as SentencePiece
    Unigram,
}

#[derive(Debug, Args)]
pub(crate) struct Train {
    /// The run file (TOML)
    pub(crate) run: PathBuf,
    /// Replace a value of the run file: --set train.seed=7 (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// What to do about checkpoints in the run's folder
    #[arg(long, value_enum, default_value_t = Resume::IfPresent)]
    pub(crate) resume: Resume,
    /// The run's folder; by default `runs/` and the run file's name
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
    /// Replaces device.kind of the run file
    #[arg(long, value_parser = names::<DeviceKind>(DeviceKind::NAMES))]
    pub(crate) device: Option<DeviceKind>,
    /// Ranks, as threads; 0 for as many as the run file names. Launchers (mpirun, srun) say it themselves
    #[arg(long, default_value_t = 0)]
    pub(crate) ranks: usize,
    /// How often to start again from the last good checkpoint when the run crashes; on fewer ranks when as many no
    /// longer come
    #[arg(long, default_value_t = 0)]
    pub(crate) max_restarts: u32,
    /// With --max-restarts: start ranks by this command, as "mpirun -n {ranks}" or "srun -n {ranks}"
    #[arg(long, value_name = "COMMAND")]
    pub(crate) launch: Option<String>,
    /// Stop as after a signal when standard input ends: whoever started this is gone, or wants it
    #[arg(long, hide = true)]
    pub(crate) until_stdin_ends: bool,
    /// Print each step as one JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// The run file (TOML)
    pub(crate) run: PathBuf,
    /// Replace a value of the run file: --set layout.tensor=8 (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Ranks of the whole run; 0 for as many as the run file names
    #[arg(long, default_value_t = 0)]
    pub(crate) world: usize,
    /// List every buffer of this rank
    #[arg(long)]
    pub(crate) rank: Option<usize>,
    /// Memory that each rank may take, in GiB; a plan that needs more is refused
    #[arg(long)]
    pub(crate) memory: Option<f64>,
    /// Print the plan as one JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verify {
    /// Train a tiny model in several layouts and compare every bit with one rank's
    Layouts(VerifyLayouts),
    /// Check every size, name and hash of a checkpoint
    Checkpoint {
        /// A checkpoint, or a run folder (its newest checkpoint)
        folder: PathBuf,
        /// Print the result as one JSON object on standard output
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct VerifyLayouts {
    /// Most ranks of a layout
    #[arg(long, default_value_t = 8)]
    pub(crate) world: usize,
    /// Layouts drawn from all that fit; 0 for all of them
    #[arg(long, default_value_t = 20)]
    pub(crate) sample: usize,
    /// Of the draw, the weights and the text
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// A given layout instead (repeatable): tp=2,pp=2,dp=2,zero=1,sp=1,schedule=zb-h1,chunks=1,recompute=full
    #[arg(long, value_name = "tp=…,pp=…,dp=…")]
    pub(crate) layout: Vec<String>,
    #[arg(long, default_value_t = 4)]
    pub(crate) layers: usize,
    #[arg(long, default_value_t = 8)]
    pub(crate) heads: usize,
    #[arg(long, default_value_t = 64)]
    pub(crate) hidden: usize,
    #[arg(long, default_value_t = 211)]
    pub(crate) vocab: usize,
    #[arg(long, default_value_t = 16)]
    pub(crate) seq: usize,
    /// Llama style instead of GPT style
    #[arg(long)]
    pub(crate) llama: bool,
    #[arg(long, default_value = "bf16", value_parser = names::<Precision>(Precision::NAMES))]
    pub(crate) dtype: Precision,
    /// Optimizer steps of each run
    #[arg(long, default_value_t = 3)]
    pub(crate) steps: u64,
    /// Print each layout as one JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Resume {
    /// Go on from the newest checkpoint; without one it is an error
    Must,
    /// Go on from the newest checkpoint, or start anew where there is none
    IfPresent,
    /// Start anew; a checkpoint already there is an error
    Never,
}

#[derive(Debug, Args)]
pub(crate) struct Generate {
    /// A run folder (its newest checkpoint), a checkpoint, a Hugging Face folder or a GGUF file
    pub(crate) model: PathBuf,
    /// Quantise the weights while loading
    #[arg(long, value_enum)]
    pub(crate) quantise: Option<Quantise>,
    /// The text to continue; an empty one starts a new document
    #[arg(long)]
    pub(crate) prompt: String,
    /// Divides the logits; 0 always takes the likeliest token
    #[arg(long, default_value_t = 0.8, allow_negative_numbers = true)]
    pub(crate) temperature: f32,
    /// Only the K likeliest tokens; 0 for all
    #[arg(long, default_value_t = 0)]
    pub(crate) top_k: usize,
    /// Only the fewest tokens that hold this share of the probability
    #[arg(long, default_value_t = 0.95)]
    pub(crate) top_p: f32,
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Most tokens to add
    #[arg(long, default_value_t = 128)]
    pub(crate) max_tokens: usize,
    /// tokenizer.json; by default the one beside the model
    #[arg(long)]
    pub(crate) tokenizer: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) device: DeviceArguments,
    #[command(flatten)]
    pub(crate) ranks: RanksArguments,
    /// Print the result as one JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// A run folder (its newest checkpoint), a checkpoint, a Hugging Face folder, or a GGUF file
    #[arg(long)]
    pub(crate) model: PathBuf,
    /// The address to listen on; other than this machine's own needs --keys-file
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) host: IpAddr,
    /// 0 takes a free one
    #[arg(long, default_value_t = 8000)]
    pub(crate) port: u16,
    /// Written once requests are answered: a JSON object with url, port and model
    #[arg(long)]
    pub(crate) ready_file: Option<PathBuf>,
    /// API keys that are let in, one on each line; without it everyone is
    #[arg(long)]
    pub(crate) keys_file: Option<PathBuf>,
    /// What requests call the model; by default its folder's or file's name
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// tokenizer.json; by default the one beside the model
    #[arg(long)]
    pub(crate) tokenizer: Option<PathBuf>,
    /// A Jinja file that makes one text of a chat's messages; by default the one that comes with the model
    #[arg(long)]
    pub(crate) chat_template: Option<PathBuf>,
    /// Quantise the weights while loading
    #[arg(long, value_enum)]
    pub(crate) quantise: Option<Quantise>,
    /// Texts under way at a time
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) texts: u16,
    /// Tokens whose keys and values are kept, of all texts; by default 1024 for each text, and at least one context
    #[arg(long)]
    pub(crate) cache_tokens: Option<usize>,
    /// Texts that may wait; beyond it requests are refused with 429
    #[arg(long, default_value_t = 256)]
    pub(crate) queue: usize,
    /// Largest body of a request, in MiB
    #[arg(long, default_value_t = 16)]
    pub(crate) body_limit: usize,
    /// Longest time of a request
    #[arg(long, default_value_t = 600)]
    pub(crate) request_seconds: u64,
    /// How long requests under way may go on after SIGTERM
    #[arg(long, default_value_t = 30)]
    pub(crate) drain_seconds: u64,
    #[command(flatten)]
    pub(crate) device: DeviceArguments,
    #[command(flatten)]
    pub(crate) ranks: RanksArguments,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    #[command(subcommand)]
    pub(crate) from: ImportFrom,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImportFrom {
    /// A Hugging Face folder of a GPT-2 or Llama model
    Hf {
        folder: PathBuf,
        /// The run folder to make, with one checkpoint at step 0
        #[arg(long)]
        out: PathBuf,
        /// Print the result as one JSON object on standard output
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(subcommand)]
    pub(crate) to: ExportTo,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ExportTo {
    /// A Hugging Face folder
    Hf {
        /// A run folder (its newest checkpoint) or a checkpoint
        checkpoint: PathBuf,
        /// The folder to make
        #[arg(long)]
        out: PathBuf,
        /// Of the weights
        #[arg(long, default_value = "f32", value_parser = names::<Precision>(Precision::NAMES))]
        dtype: Precision,
        /// Print the result as one JSON object on standard output
        #[arg(long)]
        json: bool,
    },
    /// A GGUF file of a Llama-style model
    Gguf {
        /// A run folder (its newest checkpoint), a checkpoint, a Hugging Face folder or a GGUF file
        model: PathBuf,
        /// The file to make
        #[arg(long)]
        out: PathBuf,
        /// Of the matrices; vectors stay f32
        #[arg(long, value_enum, default_value_t = GgufType::Bf16)]
        dtype: GgufType,
        /// tokenizer.json; by default the one beside the model
        #[arg(long)]
        tokenizer: Option<PathBuf>,
        /// Print the result as one JSON object on standard output
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum GgufType {
    F16,
    Bf16,
    #[value(name = "q8_0")]
    Q8_0,
}

/// Weight-only quantisation while loading.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Quantise {
    /// 8 bits, a scale for 32 weights
    Int8,
    /// 4 bits, a scale and a minimum for 32 weights
    Int4,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Training steps on random tokens
    Train(BenchTrain),
    /// Matrix products of GPT-2's shapes against the device's peak
    Gemm(BenchGemm),
    /// Tokenizing a text
    Tokenize(BenchTokenize),
    /// One step of curation
    Curate(BenchCurate),
    /// Reading prompts and generating tokens with a model
    Decode(BenchDecode),
}

#[derive(Debug, Args)]
pub(crate) struct BenchTrain {
    /// Name of a preset
    #[arg(long, default_value = "gpt2-124m")]
    pub(crate) model: String,
    /// Sequences in a step
    #[arg(long, default_value_t = 4)]
    pub(crate) batch: usize,
    /// Tokens in a sequence
    #[arg(long, default_value_t = 256)]
    pub(crate) seq: usize,
    #[arg(long, default_value = "bf16", value_parser = names::<Precision>(Precision::NAMES))]
    pub(crate) dtype: Precision,
    /// Measured steps, after one that is not
    #[arg(long, default_value_t = 5)]
    pub(crate) steps: usize,
    /// Replaces the preset's vocabulary; GPT-2's is padded to 50304 by default
    #[arg(long)]
    pub(crate) vocab: Option<usize>,
    /// Ranks, as threads, or as the processes of mpirun or srun: tp=2,pp=1,dp=1, also zero, sp, schedule, chunks,
    /// recompute
    #[arg(long, value_name = "tp=…,pp=…,dp=…")]
    pub(crate) layout: Option<String>,
    /// Micro-batches of each replica in a step
    #[arg(long, default_value_t = 1)]
    pub(crate) micro_batches: usize,
    /// exact: the same bits in every layout; fast: sums in whatever order is quickest
    #[arg(long, default_value = "exact", value_parser = names::<NumericsMode>(NumericsMode::NAMES))]
    pub(crate) numerics: NumericsMode,
    #[command(flatten)]
    pub(crate) device: DeviceArguments,
    /// Print the result as one JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchGemm {
    #[arg(long, default_value = "bf16", value_parser = names::<Precision>(Precision::NAMES))]
    pub(crate) dtype: Precision,
    #[command(flatten)]
    pub(crate) device: DeviceArguments,
    /// Print each product as one JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchTokenize {
    /// A text file
    #[arg(long)]
    pub(crate) input: PathBuf,
    /// tokenizer.json
    #[arg(long)]
    pub(crate) tokenizer: PathBuf,
    /// Worker threads; 0 for all cores
    #[arg(long, default_value_t = 0)]
    pub(crate) threads: usize,
    /// Print the result as one JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchCurate {
    #[arg(long)]
    pub(crate) step: CurateStep,
    /// A file or folder that a source of a recipe can be
    #[arg(long)]
    pub(crate) input: PathBuf,
    /// tokenizer.json, for --step tokenize; without it one is trained first
    #[arg(long)]
    pub(crate) tokenizer: Option<PathBuf>,
    /// Filters of --step filters: crawl-en (Gopher, C4, FineWeb) or crawl-zh (FineWeb-2 with jieba)
    #[arg(long, default_value = "crawl-en")]
    pub(crate) chain: String,
    /// Language of the texts, for --step minhash and dedup
    #[arg(long, default_value = "en")]
    pub(crate) language: TextLanguage,
    /// Replace a value of the recipe that reads the input
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Worker threads; 0 for all cores
    #[arg(long, default_value_t = 1)]
    pub(crate) threads: usize,
    /// Print the result as one JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchDecode {
    /// A run folder (its newest checkpoint), a checkpoint, a Hugging Face folder or a GGUF file
    #[arg(long)]
    pub(crate) model: PathBuf,
    /// Sequences that grow together
    #[arg(long, default_value_t = 1)]
    pub(crate) batch: usize,
    /// Tokens of each prompt
    #[arg(long, default_value_t = 512)]
    pub(crate) prompt: usize,
    /// Tokens generated behind each prompt
    #[arg(long, default_value_t = 64)]
    pub(crate) generate: usize,
    /// Measured rounds, after one that is not
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// Quantise the weights while loading
    #[arg(long, value_enum)]
    pub(crate) quantise: Option<Quantise>,
    #[command(flatten)]
    pub(crate) device: DeviceArguments,
    /// Print the result as one JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum CurateStep {
    /// Records out of archives and files
    Read,
    /// Main texts out of HTML pages
    Extract,
    /// Verdicts on texts, by the chain that --chain names
    Filters,
    /// MinHash signatures of texts
    Minhash,
    /// Near copies found and removed, from files to files
    Dedup,
    /// Texts into token files
    Tokenize,
}

/// What words of a text are.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum TextLanguage {
    En,
    Zh,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct DeviceArguments {
    #[arg(long, default_value = "cpu", value_parser = names::<DeviceKind>(DeviceKind::NAMES))]
    pub(crate) device: DeviceKind,
    /// Worker threads; 0 for all cores
    #[arg(long, default_value_t = 0)]
    pub(crate) threads: usize,
    /// Instructions of the CPU device; auto takes the best this machine has
    #[arg(long, default_value = "auto", value_parser = names::<Kernel>(Kernel::NAMES))]
    pub(crate) kernel: Kernel,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct RanksArguments {
    /// Share the network between ranks that are threads: tensor ranks split each layer, pipeline stages hold
    /// consecutive ones. Results are the same bits
    #[arg(long, value_name = "tp=…,pp=…")]
    pub(crate) layout: Option<String>,
    /// Seconds that a rank waits for a silent one before all end, as `layout.peer_timeout` in a run file
    #[arg(long, value_name = "SECONDS", default_value_t = triax_spec::run::PEER_TIMEOUT,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) peer_timeout: u64,
}

/// Parses one of `names`; help and errors list them.
fn names<T>(names: &'static [&'static str]) -> impl clap::builder::TypedValueParser<Value = T>
where
    T: std::str::FromStr + Clone + Send + Sync + 'static,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    use clap::builder::{PossibleValuesParser, TypedValueParser};
    PossibleValuesParser::new(names).try_map(|name| name.parse::<T>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_declaration_is_consistent() {
        Arguments::command().debug_assert();
    }
}
