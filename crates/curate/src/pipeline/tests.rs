//! Whole runs on small inputs: balance, order, threads, ranks, interruption, damage.

use super::*;
use crate::document::Document;
use crate::global::{Collect, Decide, Decision, GlobalError, GlobalStep};
use crate::recipe::Step;
use crate::step::{Filter, Scratch, Verdict};
use std::fmt::Write as _;

/// Removes all but the first of equal texts, and splits what is left at `|`: the smallest global step.
struct Twins;

/// A row a document: hash and number.
struct Rows {
    path: PathBuf,
    rows: Vec<u8>,
}

/// Numbers of the later twins, and the place of the next.
struct Later {
    numbers: Vec<u64>,
}

impl GlobalStep for Twins {
    fn name(&self) -> &'static str {
        "twins"
    }

    fn collect(&self, folder: &Path, _: usize) -> Result<Box<dyn Collect>, GlobalError> {
        Ok(Box::new(Rows { path: folder.join("rows"), rows: Vec::new() }))
    }

    fn resolve(
        &self,
        shards: &[PathBuf],
        out: &Path,
        _: usize,
        _: &Joins,
    ) -> Result<Resolution, GlobalError> {
        let mut rows: Vec<(u64, u64)> = Vec::new();
        for folder in shards {
            let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
            let bytes = std::fs::read(folder.join("rows")).unwrap();
            rows.extend(bytes.chunks(16).map(|row| (word(&row[..8]), word(&row[8..]))));
        }
        rows.sort_unstable();
        let twins = rows.windows(2).filter(|pair| pair[0].0 == pair[1].0).map(|pair| pair[1].1);
        let numbers: Vec<u64> = twins.collect();
        std::fs::write(out.join("twins"), serde_json::to_vec(&numbers).unwrap()).unwrap();
        Ok([("twins".to_owned(), numbers.len().into())].into_iter().collect())
    }

    fn decide(&self, out: &Path, _: u64) -> Result<Box<dyn Decide>, GlobalError> {
        let bytes = std::fs::read(out.join("twins")).unwrap();
        Ok(Box::new(Later { numbers: serde_json::from_slice(&bytes).unwrap() }))
    }
}

impl Collect for Rows {
    fn see(&mut self, number: u64, _: Standing, document: &Document) -> Result<(), GlobalError> {
        self.rows.extend_from_slice(&blake3::hash(document.text.as_bytes()).as_bytes()[..8]);
        self.rows.extend_from_slice(&number.to_le_bytes());
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), GlobalError> {
        std::fs::write(self.path, self.rows).unwrap();
        Ok(())
    }
}

impl Decide for Later {
    fn decide(&mut self, number: u64, document: &mut Document) -> Result<Decision, GlobalError> {
        if self.numbers.contains(&number) {
            return Ok(Decision::Remove(crate::Reason::new("twin")));
        }
        if document.text.contains('|') {
            return Ok(Decision::Split(document.text.split('|').map(str::to_owned).collect()));
        }
        Ok(Decision::Keep)
    }
}

/// Removes what says so, and sets a flag when it has seen enough.
struct Picky<'a> {
    stop: &'static AtomicBool,
    left: &'a AtomicU64,
}

impl Filter for Picky<'_> {
    fn name(&self) -> &'static str {
        "picky"
    }

    fn apply(&self, document: &mut Document, _: &mut Scratch) -> Verdict {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.stop.store(true, Ordering::Relaxed);
        }
        if document.text.contains("bad") {
            return Verdict::remove_measured("bad_word", "bad");
        }
        Verdict::Keep
    }
}

struct Inputs {
    folder: tempfile::TempDir,
    recipe: Recipe,
}

/// Two sources, three files, 600 documents, of which some are bad, doubled, split or damaged.
fn inputs(more: &str) -> Inputs {
    let folder = tempfile::tempdir().unwrap();
    for file in 0..3 {
        let mut lines = String::new();
        for number in 0..200 {
            let text = match number % 10 {
                0 => format!("bad text {file} {number}"),
                1 => format!("a text that is there often {}", number % 7),
                2 => format!("first half {number}|second half {file} {number}"),
                _ => format!("text {file} {number} with some more words"),
            };
            let damage = if number == 77 { "{" } else { "" };
            writeln!(lines, "{damage}{{\"text\":\"{text}\",\"url\":\"http://host{}/{number}\"}}", number % 4)
                .unwrap();
        }
        std::fs::write(folder.path().join(format!("{file}.jsonl")), lines).unwrap();
    }
    let path = folder.path().display();
    let text = format!(
        "[[source]]\nname = \"a\"\npaths = [\"{path}/0.jsonl\", \"{path}/1.jsonl\"]\n[[source]]\nname = \"b\"\n\
         paths = [\"{path}/2.jsonl\"]\n[[step]]\nkind = \"size\"\nmin_bytes = 5\n{more}"
    );
    let mut recipe = Recipe::parse("test.toml", &text, &[]).unwrap();
    for name in ["picky", "twins", "picky-again"] {
        recipe.steps.push(Step {
            name: name.into(),
            kind: name.into(),
            sources: Vec::new(),
            quality: String::new(),
            settings: toml::Table::new(),
        });
    }
    Inputs { folder, recipe }
}

/// Runs until done, stopping every `every` documents; the number of starts.
fn run_stopping(recipe: &Recipe, out: &Path, every: u64, place: Place) -> (Option<Manifest>, u32) {
    let stop: &'static AtomicBool = Box::leak(Box::default());
    for starts in 1.. {
        stop.store(false, Ordering::Relaxed);
        let left: &'static AtomicU64 = Box::leak(Box::new(AtomicU64::new(every)));
        let picky = || Built::Local(Box::new(Picky { stop, left }));
        let mut steps = Recipe { steps: recipe.steps[..1].to_vec(), ..recipe.clone() }.build().unwrap();
        steps.extend([picky(), Built::Global(Box::new(Twins)), picky()]);
        match run_steps(recipe, steps, out, place, &Joins::Here, stop, &mut |_| ()) {
            Ok(manifest) => return (manifest, starts),
            Err(CurateError::Interrupted) => {}
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!("the loop has no end but by return");
}

fn run_whole(recipe: &Recipe, out: &Path) -> Manifest {
    run_stopping(recipe, out, u64::MAX, Place::WHOLE).0.unwrap()
}

/// Every file below documents/ and removed/, and the manifest.
fn output(out: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, folder: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
        for entry in folder.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if path != root.join("work") {
                    walk(root, &path, files);
                }
            } else {
                let name = path.strip_prefix(root).unwrap().display().to_string();
                files.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    let mut files = BTreeMap::new();
    walk(out, out, &mut files);
    // The only place where the number of threads is written down.
    files.remove("recipe.toml");
    files
}

fn kept(out: &Path, manifest: &Manifest) -> Vec<String> {
    let mut ids = Vec::new();
    for file in manifest.sources.iter().flat_map(|source| &source.files) {
        let bytes = zstd::decode_all(std::fs::File::open(out.join(&file.path)).unwrap()).unwrap();
        for line in bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            ids.push(serde_json::from_slice::<Document>(line).unwrap().id);
        }
    }
    ids.sort();
    ids
}

#[test]
fn every_document_is_accounted_for() {
    let inputs = inputs("");
    let out = inputs.folder.path().join("out");
    let manifest = run_whole(&inputs.recipe, &out);
    assert_eq!(manifest.totals.found, 600);
    assert_eq!(manifest.totals.made, 60);
    assert_eq!(manifest.totals.kept + manifest.totals.removed, 660);
    let removed = |step: &str, reason: &str| {
        let step = manifest.steps.iter().find(|found| found.name == step).unwrap();
        step.count.removed.get(reason).map_or(0, |removed| removed.tally.documents)
    };
    assert_eq!(removed("read", "bad_json"), 3);
    assert_eq!(removed("picky", "bad_word"), 60);
    // Seven texts stay of sixty.
    assert_eq!(removed("twins", "twin"), 60 - 7);
    let twins = manifest.steps.iter().find(|step| step.name == "twins").unwrap();
    assert_eq!(twins.resolution.as_ref().unwrap()["twins"], 53);
    assert_eq!(kept(&out, &manifest).len() as u64, manifest.totals.kept);
    let json = std::fs::read(out.join("manifest.json")).unwrap();
    assert_eq!(serde_json::from_slice::<Manifest>(&json).unwrap(), manifest);
    assert_eq!(manifest.sources[1].statistics.before.domains["host1"], 49);
}

#[test]
fn threads_and_interruptions_change_no_byte() {
    let inputs = inputs("[run]\nshard_mb = 1\n");
    let folder = inputs.folder.path();
    let mut recipe = inputs.recipe.clone();
    recipe.run.threads = 1;
    run_whole(&recipe, &folder.join("one"));
    let expected = output(&folder.join("one"));
    recipe.run.threads = 4;
    run_whole(&recipe, &folder.join("four"));
    assert_eq!(output(&folder.join("four")), changed_threads(&expected, 1, 4));
    // On one thread, so that each start finishes the largest shard at least.
    recipe.run.threads = 1;
    for every in [400, 450, 530] {
        let out = folder.join(format!("stopped-{every}"));
        let (_, starts) = run_stopping(&recipe, &out, every, Place::WHOLE);
        assert!(starts > 1, "it was stopped at least once");
        assert_eq!(output(&out), expected);
        // Once more on what is finished: nothing changes.
        run_whole(&recipe, &out);
        assert_eq!(output(&out), expected);
    }
}

/// The manifest names every parameter, and so the number of threads.
fn changed_threads(files: &BTreeMap<String, Vec<u8>>, from: usize, to: usize) -> BTreeMap<String, Vec<u8>> {
    let mut files = files.clone();
    let manifest = files.get_mut("manifest.json").unwrap();
    let text = String::from_utf8(manifest.clone()).unwrap();
    *manifest = text.replace(&format!("\"threads\": {from}"), &format!("\"threads\": {to}")).into_bytes();
    files
}

#[test]
fn shards_of_any_size_keep_the_same_documents() {
    let inputs = inputs("");
    let folder = inputs.folder.path();
    let whole = run_whole(&inputs.recipe, &folder.join("whole"));
    // Files of one shard each, against all files of a source in one.
    let mut recipe = inputs.recipe.clone();
    recipe.sources[0].paths.truncate(1);
    recipe.sources.insert(
        1,
        crate::recipe::Source {
            paths: inputs.recipe.sources[0].paths[1..].to_vec(),
            ..recipe.sources[0].clone()
        },
    );
    let cut = run_whole(&recipe, &folder.join("cut"));
    assert_eq!(cut.sources.len(), 3);
    assert_eq!(kept(&folder.join("cut"), &cut), kept(&folder.join("whole"), &whole));
}

#[test]
fn two_ranks_make_what_one_process_makes() {
    let inputs = inputs("");
    let folder = inputs.folder.path();
    run_whole(&inputs.recipe, &folder.join("one"));
    let out = folder.join("two");
    let place = |rank| Place { rank, world: 2, patience: Duration::from_secs(20) };
    std::thread::scope(|scope| {
        let second = scope.spawn(|| run_stopping(&inputs.recipe, &out, u64::MAX, place(1)));
        assert!(run_stopping(&inputs.recipe, &out, u64::MAX, place(0)).0.is_some());
        assert!(second.join().unwrap().0.is_none());
    });
    assert_eq!(output(&out), output(&folder.join("one")));
}

#[test]
fn a_rank_that_never_comes_is_named() {
    let inputs = inputs("");
    let out = inputs.folder.path().join("out");
    let place = Place { rank: 0, world: 2, patience: Duration::from_millis(200) };
    let steps = Recipe { steps: Vec::new(), ..inputs.recipe };
    let error = run(&steps, &out, place, &AtomicBool::new(false), &mut |_| ()).unwrap_err();
    assert!(
        error.to_string().contains("shard-00001") && error.to_string().contains("start the ranks"),
        "{error}"
    );
}

#[test]
fn a_folder_of_something_else_is_left_alone() {
    let inputs = inputs("");
    let plain = Recipe { steps: Vec::new(), ..inputs.recipe };
    let fault = |recipe: &Recipe, out: &Path| {
        run(recipe, out, Place::WHOLE, &AtomicBool::new(false), &mut |_| ()).unwrap_err().to_string()
    };
    assert!(fault(&plain, inputs.folder.path()).contains("not empty"));
    assert_eq!(inputs.folder.path().read_dir().unwrap().count(), 3, "nothing was written");
    let out = inputs.folder.path().join("out");
    run(&plain, &out, Place::WHOLE, &AtomicBool::new(false), &mut |_| ()).unwrap();
    let mut other = plain;
    other.limits.record_bytes = 999;
    assert!(fault(&other, &out).contains("another recipe"));
}

#[test]
fn damage_between_phases_is_noticed() {
    let inputs = inputs("");
    let out = inputs.folder.path().join("out");
    let (manifest, _) = run_stopping(&inputs.recipe, &out, u64::MAX, Place::WHOLE);
    assert!(manifest.is_some());
    // As if the last phase had not been, with a documents file of the wrong bytes.
    std::fs::remove_dir_all(out.join("work/phase-1")).unwrap();
    std::fs::create_dir_all(out.join("work/phase-0/documents")).unwrap();
    for shard in 0..2 {
        std::fs::write(out.join(format!("work/phase-0/documents/shard-0000{shard}.jsonl.zst")), b"x")
            .unwrap();
    }
    let mut steps =
        Recipe { steps: inputs.recipe.steps[..1].to_vec(), ..inputs.recipe.clone() }.build().unwrap();
    let (stop, left): (&'static AtomicBool, &'static AtomicU64) =
        (Box::leak(Box::default()), Box::leak(Box::new(AtomicU64::new(u64::MAX))));
    let picky = || Built::Local(Box::new(Picky { stop, left }));
    steps.extend([picky(), Built::Global(Box::new(Twins)), picky()]);
    let error =
        run_steps(&inputs.recipe, steps, &out, Place::WHOLE, &Joins::Here, stop, &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("hash"), "{error}");
}

#[test]
fn removed_documents_are_found_again() {
    let inputs = inputs("");
    let out = inputs.folder.path().join("out");
    let manifest = run_whole(&inputs.recipe, &out);
    let find = |wanted: Filtered| {
        let mut found = Vec::new();
        inspect(&out, &wanted, &mut |document| {
            found.push(document);
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
        found
    };
    assert_eq!(find(Filtered::default()).len() as u64, manifest.totals.removed);
    let bad =
        find(Filtered { reason: Some("bad_word".into()), source: Some("b".into()), ..Filtered::default() });
    assert_eq!(bad.len(), 20);
    assert_eq!(bad[0].step, "picky");
    assert!(bad[0].document.text.starts_with("bad text 2"));
    assert!(
        inspect(inputs.folder.path(), &Filtered::default(), &mut |_| std::ops::ControlFlow::Continue(()))
            .is_err()
    );
}
