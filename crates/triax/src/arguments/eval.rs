//! Arguments of `triax eval`.

use super::{DeviceArguments, Quantise, RanksArguments, names};
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;
use triax_eval::Draw;
use triax_eval::calibration;

#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Eval {
    #[command(subcommand)]
    pub(crate) other: Option<EvalOther>,
    /// A run folder, a checkpoint, a Hugging Face folder, a GGUF file, or http://host:port of a server with
    /// /v1/completions
    #[arg(long, required = true)]
    pub(crate) model: Option<String>,
    /// The model is a run folder that is being trained: judge its checkpoints as they come, until the run's end
    #[arg(long)]
    pub(crate) during: bool,
    /// Only checkpoints whose step is a multiple of this, and the last one
    #[arg(long, value_name = "STEPS", requires = "during", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) every: Option<u64>,
    /// Quantise the weights while loading
    #[arg(long, value_enum)]
    pub(crate) quantise: Option<Quantise>,
    #[command(flatten)]
    pub(crate) tasks: EvalTasks,
    #[command(flatten)]
    pub(crate) prompts: EvalPrompts,
    /// Results go here; an evaluation that was interrupted goes on where it was
    #[arg(long, default_value = "eval-out")]
    pub(crate) out: PathBuf,
    /// Prefix of token files (.bin/.idx) whose text is looked for in the items (repeatable)
    #[arg(long, value_name = "PREFIX")]
    pub(crate) decontaminate: Vec<PathBuf>,
    /// tokenizer.json; by default the one beside the model, or the server's own
    #[arg(long)]
    pub(crate) tokenizer: Option<PathBuf>,
    /// The token that begins a document; by default the one that ends it
    #[arg(long, value_name = "ID")]
    pub(crate) start_token: Option<u32>,
    /// Begin every text with it, and not only those without a context
    #[arg(long)]
    pub(crate) start_always: bool,
    /// Most tokens of a text; by default the model's sequence, or what the server says
    #[arg(long, value_name = "TOKENS")]
    pub(crate) context: Option<usize>,
    /// A file with the server's key
    #[arg(long)]
    pub(crate) key_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) device: DeviceArguments,
    #[command(flatten)]
    pub(crate) ranks: RanksArguments,
    /// Print each task's result as one JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum EvalOther {
    /// All built-in tasks with their prompt sets
    List,
    /// One item as the network would see it
    Show {
        /// Name of a built-in task, or of the one in --task-file
        task: Option<String>,
        /// Number of the item
        #[arg(long, default_value_t = 0)]
        item: usize,
        #[command(flatten)]
        tasks: EvalTasks,
        #[command(flatten)]
        prompts: EvalPrompts,
    },
    /// Write a test set in the manner of HANS (it is not the official one)
    HansLike {
        /// The file to write, in HANS's columns
        file: PathBuf,
        /// Of each of the thirty subcases
        #[arg(long, default_value_t = 1000)]
        rows: usize,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

#[derive(Clone, Debug, Args)]
pub(crate) struct EvalTasks {
    /// Built-in tasks, separated by commas
    #[arg(long, value_delimiter = ',')]
    pub(crate) tasks: Vec<String>,
    /// A task file (TOML) of one's own (repeatable)
    #[arg(long)]
    pub(crate) task_file: Vec<PathBuf>,
    /// The folder of the tasks' data files
    #[arg(long, default_value = ".")]
    pub(crate) data: PathBuf,
    /// Only the first so many items
    #[arg(long)]
    pub(crate) limit: Option<usize>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct EvalPrompts {
    /// Prompt sets by preference, separated by commas: each task takes the first that it has
    #[arg(long, value_delimiter = ',')]
    pub(crate) prompts: Vec<String>,
    /// Solved items before each item; by default the prompt set's own number
    #[arg(long)]
    pub(crate) shots: Option<usize>,
    /// How they are drawn
    #[arg(long, default_value = "random", value_parser = names::<Draw>(Draw::NAMES))]
    pub(crate) draw: Draw,
    /// A text that stands before every item in place of drawn shots
    #[arg(long, conflicts_with = "shots")]
    pub(crate) shots_file: Option<PathBuf>,
    /// How many seeds draw shots; scores are means over them
    #[arg(long, default_value_t = 1)]
    pub(crate) seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 1234)]
    pub(crate) seed: u64,
    /// Calibrate each word before words are joined to labels, or labels after; by default as the prompt set says
    #[arg(long)]
    pub(crate) calibrate: Option<Calibrate>,
    /// How the words of a label are joined; by default as the prompt set says
    #[arg(long)]
    pub(crate) expand: Option<Expand>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Calibrate {
    None,
    Before,
    After,
}

impl From<Calibrate> for calibration::Order {
    fn from(asked: Calibrate) -> Self {
        match asked {
            Calibrate::None => Self::None,
            Calibrate::Before => Self::Before,
            Calibrate::After => Self::After,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Expand {
    First,
    Sum,
    Mean,
    Max,
}

impl From<Expand> for calibration::Expansion {
    fn from(asked: Expand) -> Self {
        match asked {
            Expand::First => Self::First,
            Expand::Sum => Self::Sum,
            Expand::Mean => Self::Mean,
            Expand::Max => Self::Max,
        }
    }
}
