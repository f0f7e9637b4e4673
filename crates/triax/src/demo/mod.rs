//! `triax demo`: the whole road on real text, in seven stages and a few minutes, ending in a report.
//!
//! ```text
//! 1 text ─▶ 2 tokenizer ─▶ 3 token files ─▶ 4 size for the time ─▶ 5 training ─▶ 6 judgement ─▶ 7 layouts ─▶ report
//! ```
//! Everything lies in one folder, and every stage is what its own subcommand does: the texts are files, the
//! run file can be trained again, the run folder generates and exports.

mod budget;
mod chart;
mod compressors;
mod corpus;
mod curation;
mod held_out;
mod layouts;
mod layouts_section;
mod prompts;
mod report;
mod summary;
mod training;

use crate::arguments::{Demo, RanksArguments};
use crate::commands::generate::{continue_text, decode, engine};
use crate::console::{Progress, bytes, count, duration, json_line};
use crate::failure::{Context, Failure, with_causes};
use crate::files::{TOKENIZER, create_folder, write_whole};
use crate::source::Source as Network;
use crate::{interrupt, machine};
use budget::{Budget, Tokens};
use corpus::{Limits, Origin, Source};
use held_out::Judge;
use layouts::Comparison;
use report::{Completion, Findings};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use summary::{SourceSummary, Summary};
use training::Course;
use triax_curate::pipeline::Manifest;
use triax_data::{Reading, Tokenizer, TokenizerKind};
use triax_infer::{Sampling, TextMemory};
use triax_spec::run::Precision;
use triax_train::{Outcome, Plan, Resume, Start, Trainer};

/// Marks a folder as the demo's own, which the next demo may replace.
const MARKER: &str = ".triax-demo";

/// What the demo makes in its folder.
const MADE: [&str; 9] =
    ["curated", "text", "tokens", "run", "layouts", "run.toml", "report.html", "summary.json", MARKER];

const LIMITS: Limits = Limits { training: 16 << 20, held_out: 256 << 10 };

/// Text the tokenizer is trained on.
const TOKENIZER_TEXT: usize = 8 << 20;

const VOCABULARY: usize = 4096;

/// Seconds kept for compressors, completions and the report.
const CLOSING: f64 = 6.0;

/// Share of the time for layouts.
const LAYOUTS: f64 = 0.07;

pub(crate) fn run(arguments: &Demo) -> Result<(), Failure> {
    let begin = Instant::now();
    if !(arguments.minutes > 0.0 && arguments.minutes.is_finite()) {
        return Err(Failure::usage(format!("--minutes {} is not a time above 0", arguments.minutes)));
    }
    let origin = Origin::new(arguments.input.as_deref())?;
    let folder = Folder::prepare(&arguments.out)?;
    eprintln!(
        "triax demo: from raw text to a language model in about {}\n",
        duration(60.0 * arguments.minutes)
    );

    stage(1, "Text", &origin.describe());
    let (sources, curation) = collect(&origin, &folder)?;

    stage(2, "Tokenizer", "byte-level BPE, trained on this text");
    let tokenizer = train_tokenizer(&sources, &folder)?;

    stage(3, "Token files", "the .bin/.idx that Megatron reads");
    let tokens = tokenize(&sources, &tokenizer, &folder)?;

    stage(4, "Size", "as many steps as fit into the time");
    let peak = machine::peak_of(machine::for_training(arguments.device), Precision::Bf16)?;
    let whole = 60.0 * arguments.minutes;
    let left = (1.0 - LAYOUTS) * whole - begin.elapsed().as_secs_f64() - CLOSING;
    let budget =
        budget::decide(&tokens, tokenizer.vocab(), arguments.device, left, &folder.path("run.toml"))?;
    write_whole(&folder.path("run.toml"), budget.text.as_bytes())?;
    say(&describe(&budget));

    stage(5, "Training", &format!("about {}", duration(budget.steps as f64 * budget.step_seconds)));
    let trained = train(arguments, &budget, peak, &folder)?;

    stage(6, "Judgement", "text that neither tokenizer nor network has seen");
    let network = Network::checkpoint(&folder.path("run"))?;
    let judged = judge(&network, &sources, &tokens, &tokenizer, arguments)?;
    let completions = complete(network, &sources, &origin, &tokenizer, arguments)?;

    stage(7, "Layouts", "the same bits on one rank and on many");
    let comparison = compare(&budget, arguments, LAYOUTS * whole, &folder)?;

    let mut summary = summarise(&budget, &trained, judged, tokenizer.vocab());
    summary.comparison = comparison;
    summary.seconds = begin.elapsed().as_secs_f64();
    let findings = Findings {
        origin: origin.describe(),
        curation,
        network: describe(&budget),
        machine: trained.device,
        loss: trained.course.smooth_loss(),
        held_out_loss: trained.course.held_out,
        speed: trained.course.speed,
        memory: trained.memory,
        completions,
        run_file: budget.text,
    };
    write_whole(&folder.path("report.html"), report::html(&summary, &findings).as_bytes())?;
    let json = serde_json::to_vec_pretty(&summary).map_err(|error| Failure::run(error.to_string()))?;
    write_whole(&folder.path("summary.json"), &json)?;
    close(&summary, &folder);
    if arguments.json { json_line(&summary) } else { Ok(()) }
}

fn stage(number: usize, name: &str, what: &str) {
    eprintln!("{number}/7  {name}: {what}");
}

fn say(line: &str) {
    eprintln!("     {line}");
}

/// The demo's folder.
struct Folder {
    root: PathBuf,
}

impl Folder {
    /// Makes the folder, or clears it of an earlier demo; a folder with anything else is left alone.
    fn prepare(root: &Path) -> Result<Self, Failure> {
        let folder = Self { root: root.to_owned() };
        let is_ours = folder.path(MARKER).exists();
        let is_empty = fs::read_dir(root).map_or(true, |mut entries| entries.next().is_none());
        if !is_ours && !is_empty {
            return Err(Failure::usage(format!(
                "{} is not empty and was not made by the demo",
                root.display()
            ))
            .help("choose a new folder with --out"));
        }
        for name in MADE {
            let path = folder.path(name);
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            match removed {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Failure::run(format!(
                        "cannot remove the earlier {}: {error}",
                        path.display()
                    )));
                }
                _ => {}
            }
        }
        for name in ["text", "tokens", "run"] {
            create_folder(&folder.path(name))?;
        }
        write_whole(&folder.path(MARKER), b"")?;
        Ok(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The text of one part of a source, a document a line.
    fn text(&self, source: &Source, part: &str) -> PathBuf {
        self.path("text").join(format!("{}-{part}.jsonl", source.name))
    }

    /// The prefix of its token files.
    fn tokens(&self, source: &Source, part: &str) -> PathBuf {
        self.path("tokens").join(format!("{}-{part}", source.name))
    }
}

const TRAINING: &str = "training";
const HELD_OUT: &str = "held-out";

fn collect(origin: &Origin, folder: &Folder) -> Result<(Vec<Source>, Option<Manifest>), Failure> {
    let (sources, manifest) = corpus::collect(origin, LIMITS, &folder.path("curated"))?;
    if let Some(Manifest { totals, .. }) = &manifest {
        say(&format!(
            "{} of {} files kept, {} removed: curated/report.html says why",
            totals.kept, totals.found, totals.removed
        ));
    }
    let total: f64 = sources.iter().map(|source| source.weight).sum();
    for source in &sources {
        for (part, documents) in [(TRAINING, &source.training), (HELD_OUT, &source.held_out)] {
            let lines = documents.iter().fold(String::new(), |mut lines, text| {
                lines.push_str(&serde_json::json!({ "text": text }).to_string());
                lines.push('\n');
                lines
            });
            write_whole(&folder.text(source, part), lines.as_bytes())?;
        }
        say(&format!(
            "{:<14} {:>9} to train on, {:>9} held out, {:>3.0} % of the blend",
            source.name,
            bytes(source.training_bytes()),
            bytes(source.held_out.iter().map(String::len).sum()),
            100.0 * source.weight / total
        ));
    }
    Ok((sources, manifest))
}

/// Each source gives the tokenizer as much as the blend gives the network.
fn train_tokenizer(sources: &[Source], folder: &Folder) -> Result<Tokenizer, Failure> {
    let begin = Instant::now();
    let total: f64 = sources.iter().map(|source| source.weight).sum();
    let texts = sources.iter().flat_map(|source| {
        let mut left = (TOKENIZER_TEXT as f64 * source.weight / total) as usize;
        source.training.iter().take_while(move |text| {
            let is_room = left > 0;
            left = left.saturating_sub(text.len());
            is_room
        })
    });
    let texts: Vec<&String> = texts.collect();
    let tokenizer = Tokenizer::train(TokenizerKind::Bpe, VOCABULARY, texts.into_iter())
        .map_err(|error| Failure::run(with_causes(&error)))?;
    let failed = || "cannot write the tokenizer".to_owned();
    tokenizer.save(&folder.path("run").join(TOKENIZER)).context(failed)?;
    tokenizer.save(&folder.path("tokens").join(TOKENIZER)).context(failed)?;
    say(&format!("{} ids in {:.1} s", tokenizer.vocab(), begin.elapsed().as_secs_f64()));
    Ok(tokenizer)
}

fn tokenize(sources: &[Source], tokenizer: &Tokenizer, folder: &Folder) -> Result<Vec<Tokens>, Failure> {
    let make = |source: &Source, part| {
        let prefix = folder.tokens(source, part);
        triax_data::tokenize(&[folder.text(source, part)], tokenizer, &prefix, &Reading::default(), 0, |_| ())
            .context(|| format!("cannot tokenize {}", source.name))
    };
    let begin = Instant::now();
    let mut all = Vec::new();
    let (mut text_bytes, mut tokens) = (0, 0);
    for source in sources {
        let training = make(source, TRAINING)?;
        let held_out = make(source, HELD_OUT)?;
        text_bytes += training.text_bytes + held_out.text_bytes;
        tokens += training.tokens + held_out.tokens;
        all.push(Tokens {
            training: folder.tokens(source, TRAINING),
            held_out: folder.tokens(source, HELD_OUT),
            weight: source.weight,
            training_tokens: training.tokens,
            held_out_tokens: held_out.tokens,
        });
    }
    let seconds = begin.elapsed().as_secs_f64();
    say(&format!(
        "{} tokens, {:.2} bytes each, {:.1} MB/s",
        count(tokens as f64),
        text_bytes as f64 / tokens as f64,
        text_bytes as f64 / seconds / 1e6
    ));
    Ok(all)
}

fn describe(budget: &Budget) -> String {
    let model = &budget.run.model;
    let tokens = budget.steps * budget.run.train.global_batch.end * budget.run.train.sequence as u64;
    format!(
        "{} parameters (Llama style, {} layers of {}, {} ids), {} steps of {} tokens, {} tokens in all",
        count(triax_spec::parameters(model) as f64),
        model.layers,
        model.hidden,
        model.vocab,
        budget.steps,
        budget.run.train.global_batch.end * budget.run.train.sequence as u64,
        count(tokens as f64)
    )
}

/// What training leaves.
struct Trained {
    course: Course,
    device: String,
    memory: Vec<(String, usize)>,
}

fn train(arguments: &Demo, budget: &Budget, peak: Option<f64>, folder: &Folder) -> Result<Trained, Failure> {
    let device = machine::device(machine::for_training(arguments.device))?;
    let described = device.describe();
    let plan = Plan::new(&budget.run, &*device).map_err(|error| Failure::run(with_causes(&error)))?;
    let memory = machine::memory_classes(plan.table(), plan.scratch_bytes());
    let mut start = Start::new(Resume::Never);
    start.stop = interrupt::flag()?;
    start.peak_flops = peak.map(|gflops| gflops * 1e9);
    let mut trainer = Trainer::open(plan, device, triax_train::alone(), &folder.path("run"), start)
        .map_err(crate::commands::train::failure)?;
    let mut course = Course::new(&budget.run);
    let outcome = trainer.train(&mut course).map_err(crate::commands::train::failure)?;
    course.finish();
    match outcome {
        Outcome::Finished(_) => Ok(Trained { course, device: described, memory }),
        Outcome::Stopped(at) => Err(Failure::run(format!("stopped at step {} as asked", at.step))
            .help("what was trained is saved; `triax demo` starts again from the beginning")),
    }
}

fn judge(
    network: &Network,
    sources: &[Source],
    tokens: &[Tokens],
    tokenizer: &Tokenizer,
    arguments: &Demo,
) -> Result<Vec<SourceSummary>, Failure> {
    let eod = tokenizer.eod().ok_or_else(|| Failure::run("the demo's tokenizer has no end of document"))?;
    let mut judge = Judge::new(network, arguments.device)?;
    let total = tokens.iter().map(|source| source.held_out_tokens).sum();
    let mut bar = Progress::new("held-out text", total);
    let mut done = 0;
    let mut judged = Vec::new();
    let training = tokens.iter().map(|source| held_out::read(&source.training, eod));
    let training = training.collect::<Result<Vec<_>, _>>()?;
    for (source, tokens) in sources.iter().zip(tokens) {
        let text = source.held_out_text();
        let stream = held_out::read(&tokens.held_out, eod)?;
        let losses = judge.losses(&stream, |counted| {
            done += counted;
            bar.set(done, || source.name.clone());
        })?;
        let mut memory = TextMemory::new(&stream);
        training.iter().for_each(|text| memory.learn(text));
        judged.push(SourceSummary {
            name: source.name.clone(),
            weight: source.weight,
            training_bytes: source.training_bytes(),
            training_tokens: tokens.training_tokens,
            held_out_bytes: text.len(),
            held_out_tokens: tokens.held_out_tokens,
            bits_per_byte_with_memory: memory.bits(&losses) / text.len() as f64,
            bits_per_byte: held_out::bits(&losses) / text.len() as f64,
            xz_bits_per_byte: compressors::xz_bits_per_byte(text.as_bytes())?,
            zstd_bits_per_byte: compressors::zstd_bits_per_byte(text.as_bytes())?,
        });
    }
    bar.finish(&format!("     {} tokens read", count(total as f64)));
    Ok(judged)
}

fn complete(
    network: Network,
    sources: &[Source],
    origin: &Origin,
    tokenizer: &Tokenizer,
    arguments: &Demo,
) -> Result<Vec<Completion>, Failure> {
    const TOKENS: usize = 90;
    let sampling = Sampling { temperature: 0.7, top_p: 0.9, seed: 1, ..Sampling::GREEDY };
    let alone = RanksArguments { layout: None, peer_timeout: triax_spec::run::PEER_TIMEOUT };
    let mut engine = engine(&network, tokenizer, (arguments.device, &alone), 1, network.model.sequence)?;
    prompts::prompts(sources, matches!(origin, Origin::Registry(_)))
        .into_iter()
        .map(|prompt| {
            let (generated, _) = continue_text(&mut engine, tokenizer, &prompt, TOKENS, sampling, |_| {
                ControlFlow::Continue(())
            })?;
            Ok(Completion { prompt, text: decode(tokenizer, &generated.ids())? })
        })
        .collect()
}

fn compare(budget: &Budget, arguments: &Demo, seconds: f64, folder: &Folder) -> Result<Comparison, Failure> {
    let scratch = folder.path("layouts");
    let time = Duration::from_secs_f64(seconds);
    let comparison = layouts::compare(&budget.run, arguments.device, &scratch, time)?;
    fs::remove_dir_all(&scratch).context(|| format!("cannot remove {}", scratch.display()))?;
    let different: Vec<_> =
        comparison.rows.iter().filter_map(|row| Some((&row.layout, row.difference.as_ref()?))).collect();
    for (layout, difference) in &different {
        say(&format!("{layout}: {difference}"));
    }
    if different.is_empty() {
        let names: Vec<&str> = comparison.rows[1..].iter().map(|row| row.layout.as_str()).collect();
        say(&format!("equal to one rank in every bit: {}", names.join(" · ")));
    }
    Ok(comparison)
}

fn summarise(budget: &Budget, trained: &Trained, sources: Vec<SourceSummary>, vocabulary: usize) -> Summary {
    let bytes: usize = sources.iter().map(|source| source.held_out_bytes).sum();
    let over_all = |figure: fn(&SourceSummary) -> f64| {
        sources.iter().map(|source| figure(source) * source.held_out_bytes as f64).sum::<f64>() / bytes as f64
    };
    let tokens = budget.steps * budget.run.train.global_batch.end * budget.run.train.sequence as u64;
    let course = &trained.course;
    Summary {
        seconds: 0.0,
        training_seconds: course.seconds,
        tokens_per_s: tokens as f64 / course.seconds,
        flops_share: course.flops_share(),
        parameters: triax_spec::parameters(&budget.run.model),
        vocabulary,
        steps: budget.steps,
        tokens,
        loss_first: course.loss.first().map_or(f64::NAN, |point| point.1),
        loss_last: course.smooth_loss().last().map_or(f64::NAN, |point| point.1),
        peak_rss_mb: machine::peak_rss_mb(),
        bits_per_byte_with_memory: over_all(|source| source.bits_per_byte_with_memory),
        bits_per_byte: over_all(|source| source.bits_per_byte),
        xz_bits_per_byte: over_all(|source| source.xz_bits_per_byte),
        zstd_bits_per_byte: over_all(|source| source.zstd_bits_per_byte),
        sources,
        comparison: Comparison::default(),
    }
}

fn close(summary: &Summary, folder: &Folder) {
    let run = folder.path("run");
    eprintln!("\nBits per byte of held-out text (lower is better)\n\n{}", summary.table());
    eprintln!(
        "network: its predictions alone. memory: mixed with what followed the same tokens in the training"
    );
    eprintln!("text and in the held-out text already read, as xz and zstd remember the latter.\n");
    eprintln!("Done in {}.", duration(summary.seconds));
    eprintln!("  report      {}", folder.path("report.html").display());
    eprintln!("  figures     {}", folder.path("summary.json").display());
    eprintln!("  model       {}", run.display());
    eprintln!("  try it      triax generate {} --prompt \"fn main() {{\"", run.display());
}
