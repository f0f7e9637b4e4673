//! `triax eval`: judge a network by tasks, or show what tasks there are and what they ask.
//!
//! ```text
//! out/results.json          all tasks; the same bytes for the same network, data and settings
//!     items-<task>.jsonl    every item with every term of its score
//!     scores.bin            what was computed so far: a second run goes on from it
//! ```

use super::eval_during;
use crate::arguments::{Eval, EvalOther, EvalPrompts, EvalTasks};
use crate::commands::generate::engine;
use crate::console::{Progress, json_line};
use crate::failure::{Context, Failure, with_causes};
use crate::source::Source;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use triax_eval::{
    Cache, Codec, EvalError, FileCodec, ModelName, Network, Output, RemoteCodec, RemoteScorer, Server,
    Settings, Task, TaskResult, builtin, evaluate, hans_like, results, show,
};
use triax_infer::Scorer;

pub(crate) fn run(arguments: &Eval) -> Result<(), Failure> {
    match &arguments.other {
        Some(EvalOther::List) => list(),
        Some(EvalOther::Show { task, item, tasks, prompts }) => {
            show_item(task.as_deref(), *item, tasks, prompts)
        }
        Some(EvalOther::HansLike { file, rows, seed }) => {
            fs::write(file, hans_like(*rows, *seed)).context(|| format!("cannot write {}", file.display()))
        }
        None => {
            let tasks = tasks(&arguments.tasks)?;
            let settings = settings(arguments)?;
            if arguments.during {
                return eval_during::follow(arguments, &tasks, &settings);
            }
            let name = arguments.model.as_deref().unwrap_or_default();
            judge(name, arguments, &tasks, &settings).map(drop)
        }
    }
}

/// Judges one network by all tasks and writes what came of it.
pub(super) fn judge(
    name: &str,
    arguments: &Eval,
    tasks: &[Task],
    settings: &Settings,
) -> Result<Vec<TaskResult>, Failure> {
    let Subject { mut scorer, codec, identity } = match name.starts_with("http://") {
        true => remote(name, arguments)?,
        false => local(name, arguments)?,
    };
    fs::create_dir_all(&arguments.out).context(|| format!("cannot make {}", arguments.out.display()))?;
    let mut cache = Cache::open(&arguments.out.join("scores.bin")).map_err(failure)?;
    if !cache.is_empty() {
        eprintln!("  {} scores are known from before", cache.len());
    }
    let model = ModelName {
        name: name.to_owned(),
        identity: identity.clone(),
        tokenizer: codec.name(),
        context_length: scorer.context_length(),
    };
    let mut network =
        Network { scorer: &mut *scorer, codec: &*codec, identity, start_always: arguments.start_always };
    let mut all = Vec::new();
    for task in tasks {
        let mut items =
            Output::create(&arguments.out.join(format!("items-{}.jsonl", task.name))).map_err(failure)?;
        let mut shown: Option<Progress> = None;
        let folder = &arguments.tasks.data;
        let result = evaluate(&mut network, &mut cache, task, folder, settings, &mut items, |progress| {
            let shown = shown.get_or_insert_with(|| Progress::new(progress.task, progress.all as u64));
            shown.set(progress.done as u64, || format!("{} of {} items", progress.done, progress.all));
        })
        .map_err(failure)?;
        drop(shown);
        items.commit().map_err(failure)?;
        say(&result);
        if arguments.json {
            json_line(&result)?;
        }
        all.push(result);
    }
    let mut file = Output::create(&arguments.out.join("results.json")).map_err(failure)?;
    let json = serde_json::to_string_pretty(&results(&model, &all)).context(|| "JSON".to_owned())?;
    writeln!(file, "{json}").context(|| "cannot write results.json".to_owned())?;
    file.commit().map_err(failure)?;
    eprintln!("  {}", arguments.out.join("results.json").display());
    Ok(all)
}

/// A network that can be asked, and its tokenizer.
struct Subject {
    scorer: Box<dyn Scorer>,
    codec: Box<dyn Codec>,
    identity: String,
}

fn local(name: &str, arguments: &Eval) -> Result<Subject, Failure> {
    /// Texts of one pass: their last tokens share the products of the layers.
    const SEQUENCES: usize = 16;
    let mut source = Source::open(Path::new(name))?.quantised(arguments.quantise);
    if let Some(context) = arguments.context {
        if context > source.model.sequence {
            let most = source.model.sequence;
            return Err(Failure::usage(format!(
                "--context {context}: the model's sequence has {most} tokens"
            )));
        }
        source.model.sequence = context;
    }
    let tokenizer = source.tokenizer(arguments.tokenizer.as_deref())?;
    let start = arguments.start_token.or(tokenizer.eod());
    let cache = SEQUENCES * source.model.sequence;
    let engine = engine(&source, &tokenizer, (arguments.device, &arguments.ranks), SEQUENCES, cache)?;
    let identity = format!(
        "{} {} {:?}{}",
        hash(Path::new(&source.described))?,
        arguments.device.device.name(),
        arguments.device.kernel,
        arguments.quantise.map_or_else(String::new, |coding| format!(" {coding:?}"))
    );
    Ok(Subject { scorer: Box::new(engine), codec: Box::new(FileCodec { tokenizer, start }), identity })
}

/// BLAKE3 of what tells a network from others: a file, a checkpoint's manifest (which holds the hashes of its
/// files), or a folder's configuration and weights.
fn hash(path: &Path) -> Result<String, Failure> {
    let mut files = vec![path.to_owned()];
    if path.join("manifest.json").is_file() {
        files = vec![path.join("manifest.json")];
    } else if path.is_dir() {
        let entries = fs::read_dir(path).context(|| format!("cannot look into {}", path.display()))?;
        files = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.retain(|file| {
            let name = file.file_name().unwrap_or_default();
            name == "config.json" || file.extension().is_some_and(|extension| extension == "safetensors")
        });
        files.sort();
    }
    let mut hasher = blake3::Hasher::new();
    for file in files {
        let opened = fs::File::open(&file).context(|| format!("cannot read {}", file.display()))?;
        hasher.update_reader(opened).context(|| format!("cannot read {}", file.display()))?;
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn remote(url: &str, arguments: &Eval) -> Result<Subject, Failure> {
    if arguments.ranks.layout.is_some() {
        return Err(Failure::usage(format!(
            "{url} has a layout of its own: --layout is for networks run here"
        )));
    }
    let key = arguments.key_file.as_ref().map(|file| {
        let text = fs::read_to_string(file).context(|| format!("cannot read {}", file.display()))?;
        Ok(text.lines().next().unwrap_or_default().trim().to_owned())
    });
    let server = Server::connect(url, key.transpose()?).map_err(failure)?;
    let context = arguments.context.or(server.context).ok_or_else(|| {
        Failure::usage(format!("{url} does not say how many tokens a text may have"))
            .help("say it: --context TOKENS")
    })?;
    let codec: Box<dyn Codec> = match &arguments.tokenizer {
        Some(path) => {
            let tokenizer =
                triax_data::Tokenizer::load(path).context(|| format!("cannot use {}", path.display()))?;
            let start = arguments.start_token.or(tokenizer.eod());
            Box::new(FileCodec { tokenizer, start })
        }
        None => {
            let mut codec = RemoteCodec::new(server.clone()).map_err(failure)?;
            codec.start = arguments.start_token.or(codec.start);
            Box::new(codec)
        }
    };
    let identity = format!("{url} {}", server.model);
    Ok(Subject { scorer: Box::new(RemoteScorer::new(server, context)), codec, identity })
}

fn tasks(asked: &EvalTasks) -> Result<Vec<Task>, Failure> {
    let named = asked.tasks.iter().map(|name| builtin::task(name));
    let files = asked.task_file.iter().map(|file| Task::load(file));
    let tasks: Vec<Task> = named.chain(files).collect::<Result<_, _>>().map_err(failure)?;
    if tasks.is_empty() {
        return Err(Failure::usage("no task is named")
            .help("--tasks lambada,boolq or --task-file FILE; triax eval list shows all"));
    }
    if let Some(twice) = tasks.iter().enumerate().find_map(|(place, task)| {
        tasks[..place].iter().any(|other| other.name == task.name).then_some(&task.name)
    }) {
        return Err(Failure::usage(format!("the task {twice} is named twice")));
    }
    Ok(tasks)
}

fn settings(arguments: &Eval) -> Result<Settings, Failure> {
    let mut settings = prompt_settings(&arguments.prompts, &arguments.tasks)?;
    settings.training.clone_from(&arguments.decontaminate);
    Ok(settings)
}

fn prompt_settings(asked: &EvalPrompts, tasks: &EvalTasks) -> Result<Settings, Failure> {
    if asked.seeds == 0 || tasks.limit == Some(0) {
        return Err(Failure::usage("--seeds and --limit are at least 1"));
    }
    let fixed_shots = asked
        .shots_file
        .as_ref()
        .map(|file| fs::read_to_string(file).context(|| format!("cannot read {}", file.display())));
    Ok(Settings {
        prompts: asked.prompts.clone(),
        shots: asked.shots,
        draw: asked.draw,
        seeds: (asked.seed..).take(asked.seeds as usize).collect(),
        limit: tasks.limit,
        expand: asked.expand.map(Into::into),
        calibrate: asked.calibrate.map(Into::into),
        fixed_shots: fixed_shots.transpose()?,
        training: Vec::new(),
    })
}

/// One task in two or three lines: the score with its error, beside what guessing gives.
fn say(result: &TaskResult) {
    let percent = |value: f64| format!("{:.2} %", 100.0 * value);
    let is_share = |name: &str| !name.contains("perplexity") && name != "bits_per_byte";
    let show = |name: &str, value: f64| if is_share(name) { percent(value) } else { format!("{value:.4}") };
    let TaskResult { task, prompt, shots, items, truncated, joined, .. } = result;
    let shots = if result.fixed_shots { "fixed".to_owned() } else { shots.to_string() };
    let mut line = format!("  {task} · {prompt} · {shots} shots · {items} items");
    for (name, metric) in &result.measures {
        let mark = if *name == result.measure { "▸ " } else { "" };
        line.push_str(&format!("\n    {mark}{name} {}", show(name, metric.value)));
        if let Some(error) = metric.standard_error {
            line.push_str(&format!(" ± {}", show(name, error)));
        }
        if let Some(deviation) = metric.deviation {
            line.push_str(&format!(", {} between {} seeds", show(name, deviation), metric.seeds.len()));
        }
    }
    if let (Some(chance), Some(majority)) = (result.chance, result.majority) {
        line.push_str(&format!("\n    chance {}, majority {}", percent(chance), percent(majority)));
    }
    if truncated + joined > 0 {
        line.push_str(&format!(
            "\n    {truncated} prompts cut from the left, {joined} with a token across the border of the target"
        ));
    }
    for collision in &result.collisions {
        let words = collision.words.join(", ");
        line.push_str(&format!(
            "\n    cannot be told apart by their tokens: {words} (labels {})",
            collision.labels.join(", ")
        ));
    }
    if let Some(clean) = &result.decontamination {
        let score =
            clean.clean.as_ref().map_or_else(|| "no item".to_owned(), |m| show(&result.measure, m.value));
        line.push_str(&format!(
            "\n    {} items are in the training text; without them {score}",
            clean.contaminated
        ));
    }
    eprintln!("{line}");
}

fn list() -> Result<(), Failure> {
    let mut text = String::new();
    for (name, _) in builtin::TASKS {
        let task = builtin::task(name).map_err(failure)?;
        let sets: Vec<&str> = task.prompts.keys().map(String::as_str).collect();
        text.push_str(&format!("{name:<12} {:<24} {}\n", sets.join(","), task.about));
    }
    print(&text)
}

fn show_item(
    name: Option<&str>,
    item: usize,
    asked: &EvalTasks,
    prompts: &EvalPrompts,
) -> Result<(), Failure> {
    let task = match name {
        Some(name) => builtin::task(name).map_err(failure)?,
        None => tasks(asked)?.swap_remove(0),
    };
    let settings = prompt_settings(prompts, asked)?;
    let (rendered, count) = show(&task, &asked.data, &settings, item).map_err(failure)?;
    let mut text = format!("{} item {item} of {count}, shots {:?}\n", task.name, rendered.shots);
    let shared = rendered.choices.iter().all(|choice| choice.context == rendered.choices[0].context);
    if shared {
        text.push_str(&format!("──── context\n{}\n", rendered.choices[0].context));
    }
    for choice in &rendered.choices {
        let mark = if choice.label == rendered.gold { "▸" } else { " " };
        if !shared {
            text.push_str(&format!("──── context\n{}\n", choice.context));
        }
        text.push_str(&format!("──── {mark} target {}\n{}\n", choice.label, choice.target));
    }
    print(&text)
}

fn print(text: &str) -> Result<(), Failure> {
    io::stdout().write_all(text.as_bytes()).context(|| "cannot write to standard output".to_owned())
}

fn failure(error: EvalError) -> Failure {
    match error {
        EvalError::NoTask { .. }
        | EvalError::NoPrompt { .. }
        | EvalError::NoData { .. }
        | EvalError::Task { .. } => Failure::usage(error.to_string()),
        error => Failure::run(with_causes(&error)),
    }
}
