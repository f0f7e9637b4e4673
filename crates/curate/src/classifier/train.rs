//! Training a classifier: examples of each class in, a fastText model and its quality on held-out examples out. One
//! thread, fixed seed: the same examples give the same bytes.

use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use fasttext::FastText;
use fasttext::args::Args;
use serde::{Deserialize, Serialize};

use super::prepare;
use crate::filters::Language;
use crate::filters::bad_words::uniform;
use crate::step::Scratch;

/// One class: its label and files of examples, JSON lines with a `text`, or plain text with one example a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    pub label: String,
    pub files: Vec<PathBuf>,
}

/// How a classifier is trained. The defaults are small enough for a laptop; DCLM's own has 100 dimensions, bigrams.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    pub classes: Vec<Class>,
    /// How texts are cut into words; the filter must be told the same.
    pub language: Language,
    pub dimensions: usize,
    pub epochs: usize,
    pub learning_rate: f64,
    /// Longest n-grams of words, which share `buckets` rows.
    pub word_ngrams: usize,
    pub buckets: usize,
    /// Fewest occurrences of a word.
    pub min_count: usize,
    pub seed: i32,
    /// Share of examples that are not trained on, drawn by their contents.
    pub held_out: f64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            classes: Vec::new(),
            language: Language::English,
            dimensions: 64,
            epochs: 10,
            learning_rate: 0.5,
            word_ngrams: 2,
            buckets: 200_000,
            min_count: 1,
            seed: 1,
            held_out: 0.1,
        }
    }
}

/// Why a classifier cannot be trained.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
    #[error("{path}, line {line}: {problem}; wanted is an object with a string `text`, or plain text")]
    Example { path: String, line: usize, problem: String },
    #[error("a classifier needs at least two classes with examples; `{label}` has none")]
    Empty { label: String },
    #[error("a classifier needs at least two classes, {0} given")]
    TooFew(usize),
    #[error("training: {0}")]
    Training(String),
}

/// What the model does on the examples that were held out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    pub trained: usize,
    pub held_out: usize,
    /// Share of held-out examples whose most probable label is theirs.
    pub accuracy: f64,
    pub classes: Vec<ClassQuality>,
}

/// Precision and recall of one class among the held-out examples.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClassQuality {
    pub label: String,
    pub examples: usize,
    pub precision: f64,
    pub recall: f64,
}

/// Trains a model and writes it to `output` whole.
///
/// # Errors
/// If examples cannot be read, a class has none, or the model cannot be written.
pub fn train(config: &TrainConfig, output: &Path) -> Result<Quality, TrainError> {
    if config.classes.len() < 2 {
        return Err(TrainError::TooFew(config.classes.len()));
    }
    let io = |path: &Path| {
        let path = path.display().to_string();
        move |source| TrainError::Io { path, source }
    };
    let part = output.with_extension("examples.partial");
    let mut file = BufWriter::new(File::create(&part).map_err(io(&part))?);
    let remove_part = RemoveOnDrop(part.clone());
    let (mut scratch, mut line, mut held) = (Scratch::default(), String::new(), Vec::new());
    let mut trained = 0;
    for class in &config.classes {
        let before = trained;
        for path in &class.files {
            for example in examples(path)? {
                prepare(&example, config.language, &mut scratch, &mut line);
                if line.is_empty() {
                    continue;
                }
                if uniform(config.seed as u64, &line) < config.held_out {
                    held.push((class.label.clone(), line.clone()));
                } else {
                    writeln!(file, "__label__{} {line}", class.label).map_err(io(&part))?;
                    trained += 1;
                }
            }
        }
        if trained == before {
            return Err(TrainError::Empty { label: class.label.clone() });
        }
    }
    file.into_inner().map_err(|error| io(&part)(error.into_error()))?.sync_all().map_err(io(&part))?;

    let mut args = Args::new();
    args.word_ngrams = config.word_ngrams as i32;
    args.bucket = config.buckets as i32;
    args.apply_supervised_defaults();
    args.input = part;
    args.dim = config.dimensions as i32;
    args.epoch = config.epochs as i32;
    args.lr = config.learning_rate;
    args.min_count = config.min_count as i32;
    args.seed = config.seed;
    args.thread = 1;
    args.verbose = 0;
    let model = FastText::train(args).map_err(|error| TrainError::Training(error.to_string()))?;
    drop(remove_part);

    let whole = output.with_extension("partial");
    model.save_model(&whole).map_err(|error| TrainError::Training(error.to_string()))?;
    std::fs::rename(&whole, output).map_err(io(output))?;
    Ok(measure(&model, config, trained, &held))
}

struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        // A file that is gone already is as good.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The examples of one file.
fn examples(path: &Path) -> Result<Vec<String>, TrainError> {
    let io = |source| TrainError::Io { path: path.display().to_string(), source };
    let json = path.extension().is_some_and(|extension| extension == "jsonl" || extension == "json");
    let mut found = Vec::new();
    for (number, line) in BufReader::new(File::open(path).map_err(io)?).split(b'\n').enumerate() {
        let line = line.map_err(io)?;
        let text = String::from_utf8_lossy(&line);
        if text.trim().is_empty() {
            continue;
        }
        if !json {
            found.push(text.into_owned());
            continue;
        }
        let problem = |problem: String| TrainError::Example {
            path: path.display().to_string(),
            line: number + 1,
            problem,
        };
        let value: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| problem(error.to_string()))?;
        let text = value["text"].as_str().ok_or_else(|| problem("no string `text`".to_owned()))?;
        found.push(text.to_owned());
    }
    Ok(found)
}

fn measure(model: &FastText, config: &TrainConfig, trained: usize, held: &[(String, String)]) -> Quality {
    let predicted: Vec<_> = held
        .iter()
        .map(|(_, line)| {
            let best = model.predict(line, 1, 0.0).into_iter().next();
            best.map(|best| best.label.trim_start_matches("__label__").to_owned()).unwrap_or_default()
        })
        .collect();
    let pairs = || held.iter().map(|(label, _)| label).zip(&predicted);
    let right = pairs().filter(|(label, found)| label == found).count();
    let share = |part: usize, whole: usize| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    let classes = config
        .classes
        .iter()
        .map(|class| {
            let examples = pairs().filter(|(label, _)| **label == class.label).count();
            let found = pairs().filter(|(_, found)| **found == class.label).count();
            let both = pairs().filter(|(label, found)| **label == class.label && label == found).count();
            ClassQuality {
                label: class.label.clone(),
                examples,
                precision: share(both, found),
                recall: share(both, examples),
            }
        })
        .collect();
    Quality { trained, held_out: held.len(), accuracy: share(right, held.len()), classes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classifier::{ClassifierConfig, Keep};
    use crate::filters::tests::{document, label};
    use crate::step::Filter as _;

    fn write(folder: &Path, name: &str, lines: impl Iterator<Item = String>) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, lines.collect::<Vec<_>>().join("\n")).expect("written");
        path
    }

    #[test]
    fn a_trained_classifier_tells_its_classes_apart_and_is_the_same_every_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let prose = ["海边", "老人", "渔船", "清晨", "孩子", "山路", "河水", "月光"];
        let advert = ["特价", "购买", "优惠", "点击", "微信", "包邮", "下单", "折扣"];
        let lines = |words: [&'static str; 8], json: bool| {
            (0..120_usize).map(move |n| {
                let text: String = (0..12).map(|at| words[(n * 7 + at * at + n * at) % 8]).collect();
                if json { format!("{{\"text\": \"{text}，{n}\"}}") } else { format!("{text}，{n}") }
            })
        };
        let class = |label: &str, path: PathBuf| Class { label: label.to_owned(), files: vec![path] };
        let config = TrainConfig {
            classes: vec![
                class("high", write(folder.path(), "high.jsonl", lines(prose, true))),
                class("advert", write(folder.path(), "advert.txt", lines(advert, false))),
            ],
            language: Language::Chinese,
            dimensions: 8,
            buckets: 1000,
            ..TrainConfig::default()
        };
        let paths = [folder.path().join("one.bin"), folder.path().join("two.bin")];
        let quality = train(&config, &paths[0]).expect("trained");
        assert_eq!(train(&config, &paths[1]).expect("trained"), quality);
        let bytes = paths.each_ref().map(|path| std::fs::read(path).expect("a model"));
        assert!(bytes[0] == bytes[1], "two trainings gave different models");
        assert_eq!(quality.trained + quality.held_out, 240);
        assert!(quality.held_out > 5 && quality.accuracy > 0.95, "{quality:?}");
        assert_eq!(
            std::fs::read_dir(folder.path()).expect("a folder").count(),
            4,
            "nothing else is left behind"
        );

        let config = ClassifierConfig {
            model: paths[0].clone(),
            language: Language::Chinese,
            remove_labels: vec!["advert".to_owned()],
            keep: Keep::Threshold(0.5),
            ..ClassifierConfig::default()
        };
        let filter = config.clone().build().expect("a model");
        let mut good = document("老人在海边看着渔船，月光照在河水上。");
        assert_eq!(label(&filter.apply(&mut good, &mut Scratch::default())), "keep");
        assert!(good.metadata["quality"].as_f64().expect("a score") > 0.5);
        let bad = filter.apply(&mut document("点击购买，特价包邮，微信下单"), &mut Scratch::default());
        assert_eq!(label(&bad), "classifier_advert");
        let unknown = ClassifierConfig { wanted: "hihg".to_owned(), ..config }.build().map(|_| ());
        assert!(unknown.expect_err("no such label").to_string().contains("`high`"));
    }

    #[test]
    fn examples_that_are_none_are_errors() {
        let folder = tempfile::tempdir().expect("a folder");
        let good = write(folder.path(), "good.txt", ["a line".to_owned()].into_iter());
        let bad = write(folder.path(), "bad.jsonl", ["{\"text\": 1}".to_owned()].into_iter());
        let class =
            |label: &str, path: &Path| Class { label: label.to_owned(), files: vec![path.to_owned()] };
        let output = folder.path().join("model.bin");
        let config =
            TrainConfig { classes: vec![class("a", &good), class("b", &bad)], ..TrainConfig::default() };
        let error = train(&config, &output).expect_err("no text").to_string();
        assert!(error.contains("bad.jsonl, line 1"), "{error}");
        let config = TrainConfig { classes: vec![class("a", &good)], ..TrainConfig::default() };
        assert!(matches!(train(&config, &output), Err(TrainError::TooFew(1))));
        assert!(!output.exists());
    }
}
