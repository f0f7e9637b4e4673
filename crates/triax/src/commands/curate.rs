//! `triax curate`: a recipe carried out, its report, and a look at what was removed.

use crate::arguments::{Curate, CurateAction, Inspect, TrainClassifier};
use crate::console::{Progress, bytes, count, json_line};
use crate::failure::{Context, Failure, with_causes};
use crate::{files, interrupt};
use serde::Serialize;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use triax_curate::classifier::{self, Class, TrainConfig};
use triax_curate::cluster::{Cluster, Joins};
use triax_curate::objects::is_url;
use triax_curate::pipeline::{self, Filtered, Manifest, Place, Totals, cluster_scratch};
use triax_curate::{CurateError, Recipe, report};

#[derive(Serialize)]
struct Outcome<'a> {
    out: &'a Path,
    #[serde(flatten)]
    totals: Totals,
    seconds: f64,
}

pub(crate) fn run(arguments: &Curate) -> Result<(), Failure> {
    match &arguments.action {
        Some(CurateAction::Inspect(inspection)) => return inspect(inspection),
        Some(CurateAction::TrainClassifier(training)) => return train_classifier(training),
        None => {}
    }
    let needed =
        |what: &str| Failure::usage(format!("{what} is needed")).help("triax curate files --out curated");
    let recipe = arguments.recipe.as_ref().ok_or_else(|| needed("a recipe"))?;
    let mut recipe = Recipe::load(recipe, &arguments.overrides).map_err(|error| usage(&error))?;
    if let Some(threads) = arguments.threads {
        recipe.run.threads = threads;
    }
    if arguments.print {
        print!("{}", recipe.to_toml());
        return Ok(());
    }
    let out = arguments.out.as_ref().ok_or_else(|| needed("--out"))?;
    if is_url(&out.to_string_lossy()) {
        return Err(Failure::usage(format!(
            "--out {} is no folder of this machine, where a run keeps what it goes on from",
            out.display()
        ))
        .help("--out DIR --set output.upload=s3://bucket/folder copies the finished folder there"));
    }
    let place = Place::find(arguments.rank, arguments.world, |name| std::env::var(name).ok())
        .map_err(Failure::usage)?;
    let joins = joins(arguments.cluster.as_deref(), &recipe, out)?;
    let begin = Instant::now();
    let Some(manifest) = carry_out(&recipe, out, place, &joins, &*interrupt::flag()?)? else {
        eprintln!("rank {} of {} is done; rank 0 writes the manifest", place.rank, place.world);
        return Ok(());
    };
    tell(&manifest);
    eprintln!("report: {}", out.join("report.html").display());
    if !recipe.output.upload.is_empty() {
        let done = pipeline::upload(&recipe, out, &mut |url| eprintln!("writing {url}"))
            .map_err(|error| Failure::run(with_causes(&error)))?;
        eprintln!(
            "{} files with {} written to {}, {} there already",
            done.files,
            bytes(done.bytes as usize),
            recipe.output.upload,
            done.skipped
        );
    }
    if !arguments.json {
        return Ok(());
    }
    json_line(&Outcome { out, totals: manifest.totals, seconds: begin.elapsed().as_secs_f64() })
}

/// The value of --cluster for a cluster that needs no other process.
const IN_PROCESS: &str = "in-process";

/// Where documents are compared.
fn joins(cluster: Option<&str>, recipe: &Recipe, out: &Path) -> Result<Joins, Failure> {
    let cluster = match cluster {
        None => return Ok(Joins::Here),
        Some(IN_PROCESS) => {
            let threads = match recipe.run.threads {
                0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
                threads => threads,
            };
            Cluster::standalone(threads, recipe.run.memory_mb as u64 * 1_000_000, &cluster_scratch(out))
        }
        Some(address) => Cluster::connect(address),
    };
    Ok(Joins::Cluster(cluster.map_err(|error| Failure::usage(with_causes(&error)))?))
}

/// Runs the recipe with a bar, and writes the report beside the manifest. Ranks but the first have no manifest.
pub(crate) fn carry_out(
    recipe: &Recipe,
    out: &Path,
    place: Place,
    joins: &Joins,
    stop: &AtomicBool,
) -> Result<Option<Manifest>, Failure> {
    let mut bar: Option<(usize, Progress)> = None;
    let begin = Instant::now();
    let manifest = pipeline::run_on(recipe, out, place, joins, stop, &mut |progress| {
        if bar.as_ref().is_none_or(|(phase, _)| *phase != progress.phase) {
            let what = format!("curating {}/{}", progress.phase + 1, progress.phases);
            bar = Some((progress.phase, Progress::new(what, progress.bytes_total)));
        }
        if let Some((_, bar)) = &mut bar {
            bar.set(progress.bytes, || {
                let removed = count(progress.removed as f64);
                if progress.is_waiting {
                    return format!("comparing documents, {removed} removed so far");
                }
                let speed = progress.bytes as f64 / begin.elapsed().as_secs_f64() / 1e6;
                format!("{removed} removed, {speed:.1} MB/s")
            });
        }
    })
    .map_err(|error| match error {
        CurateError::Recipe { .. } | CurateError::Source { .. } | CurateError::Step { .. } => usage(&error),
        CurateError::Output { .. } => Failure::usage(with_causes(&error)),
        _ => Failure::run(with_causes(&error)),
    })?;
    if let Some(manifest) = &manifest {
        files::write_whole(&out.join("report.html"), report::html(manifest).as_bytes())?;
    }
    Ok(manifest)
}

fn usage(error: &CurateError) -> Failure {
    Failure::usage(with_causes(error))
        .help("triax curate RECIPE --out DIR --print shows every key of a recipe")
}

fn tell(manifest: &Manifest) {
    let totals = manifest.totals;
    eprintln!(
        "{} of {} documents kept, {} of text",
        totals.kept,
        totals.found + totals.made,
        bytes(totals.kept_bytes as usize)
    );
    for step in &manifest.steps {
        for (reason, removed) in &step.count.removed {
            eprintln!("  {:>10}  {} · {reason}", removed.tally.documents, step.name);
        }
    }
}

fn train_classifier(arguments: &TrainClassifier) -> Result<(), Failure> {
    let mut classes: Vec<Class> = Vec::new();
    for class in &arguments.classes {
        let Some((label, file)) =
            class.split_once('=').filter(|(label, file)| !label.is_empty() && !file.is_empty())
        else {
            return Err(Failure::usage(format!("--class {class} has no `LABEL=FILE`"))
                .help("--class high=good.jsonl"));
        };
        match classes.iter_mut().find(|class| class.label == label) {
            Some(class) => class.files.push(file.into()),
            None => classes.push(Class { label: label.to_owned(), files: vec![file.into()] }),
        }
    }
    let language = serde_json::from_value(arguments.language.clone().into()).map_err(|_| {
        Failure::usage(format!("--language {} is not known", arguments.language)).help("en, zh or other")
    })?;
    let config = TrainConfig {
        classes,
        language,
        dimensions: arguments.dimensions,
        epochs: arguments.epochs,
        learning_rate: arguments.learning_rate,
        held_out: arguments.held_out,
        seed: arguments.seed,
        ..TrainConfig::default()
    };
    let quality =
        classifier::train(&config, &arguments.out).map_err(|error| Failure::run(with_causes(&error)))?;
    eprintln!(
        "{} examples trained on, {} held out: {:.1} % right",
        quality.trained,
        quality.held_out,
        100.0 * quality.accuracy
    );
    for class in &quality.classes {
        let (precision, recall) = (100.0 * class.precision, 100.0 * class.recall);
        eprintln!(
            "  {}: {} examples, precision {precision:.1} %, recall {recall:.1} %",
            class.label, class.examples
        );
    }
    if arguments.json { json_line(&quality) } else { Ok(()) }
}

fn inspect(arguments: &Inspect) -> Result<(), Failure> {
    let wanted = Filtered {
        step: arguments.step.clone(),
        reason: arguments.reason.clone(),
        source: arguments.source.clone(),
    };
    let (mut shown, mut failed) = (0, None);
    pipeline::inspect(&arguments.folder, &wanted, &mut |removed| {
        shown += 1;
        if arguments.json {
            if let Err(failure) = json_line(&removed) {
                failed = Some(failure);
                return ControlFlow::Break(());
            }
        } else {
            let detail = removed.reason.detail.as_deref().unwrap_or_default();
            let name = removed.document.url.as_ref().unwrap_or(&removed.document.id);
            let excerpt: String = removed.document.text.chars().take(arguments.characters).collect();
            println!("── {} · {} {detail}\n   {name}\n{excerpt}\n", removed.step, removed.reason.label);
        }
        if shown == arguments.limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .context(|| format!("cannot inspect {}", arguments.folder.display()))?;
    if shown == 0 && failed.is_none() {
        eprintln!("no removed document fits; its manifest.json lists steps and reasons");
    }
    failed.map_or(Ok(()), Err)
}
