//! Where everything lies in the output folder, and how steps are put into phases.
//!
//! ```text
//! out/
//!   recipe.toml                  every parameter
//!   documents/SOURCE/shard-….    what was kept
//!   removed/STEP/shard-….        what was not, with reasons
//!   manifest.json  report.html
//!   work/plan.json               the shards
//!   work/fetched/                objects of stores while they are read
//!   work/cluster/                what a cluster inside a process of the run spills and shuffles
//!   work/phase-0/done/           markers, written last
//!   work/phase-0/documents/      between phases
//!   work/phase-0/rows/           for the global step that ends the phase
//!   work/phase-0/decisions/      and what it decided
//! ```

use crate::readers::Shard;
use crate::recipe::{Built, Recipe};
use crate::writers::DocumentFile;
use std::path::{Path, PathBuf};

/// A run of local steps between global ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Phase {
    pub(super) number: usize,
    /// The global step whose decisions it begins with; none for the first phase, which reads the sources.
    pub(super) before: Option<Before>,
    /// Local steps, as indices into the recipe's.
    pub(super) steps: Vec<usize>,
    /// The global step that it makes rows for; none for the last phase.
    pub(super) after: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Before {
    /// The phase whose documents it reads.
    pub(super) phase: usize,
    /// Index of the global step.
    pub(super) step: usize,
}

pub(super) fn phases(steps: &[Built]) -> Vec<Phase> {
    let mut phases = vec![Phase { number: 0, before: None, steps: Vec::new(), after: None }];
    for (index, step) in steps.iter().enumerate() {
        let last = phases.last_mut().expect("there is always a phase");
        match step {
            Built::Local(_) => last.steps.push(index),
            Built::Global(_) => {
                last.after = Some(index);
                let before = Some(Before { phase: last.number, step: index });
                let number = last.number + 1;
                phases.push(Phase { number, before, steps: Vec::new(), after: None });
            }
        }
    }
    phases
}

/// Names of files below the output folder.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) root: PathBuf,
}

impl Layout {
    pub(super) fn recipe(&self) -> PathBuf {
        self.root.join("recipe.toml")
    }

    pub(super) fn manifest(&self) -> PathBuf {
        self.root.join("manifest.json")
    }

    pub(super) fn plan(&self) -> PathBuf {
        self.root.join("work/plan.json")
    }

    /// Objects of a shard, until it is done.
    pub(super) fn fetched(&self, shard: u32) -> PathBuf {
        self.root.join(format!("work/fetched/shard-{shard:05}"))
    }

    pub(super) fn cluster(&self) -> PathBuf {
        self.root.join("work/cluster")
    }

    /// What of an output folder lies in stores already.
    pub(super) fn uploaded(&self) -> PathBuf {
        self.root.join("work/uploaded.json")
    }

    fn phase(&self, phase: usize) -> PathBuf {
        self.root.join(format!("work/phase-{phase}"))
    }

    pub(super) fn marker(&self, phase: &Phase, shard: u32) -> PathBuf {
        self.phase(phase.number).join(format!("done/shard-{shard:05}.json"))
    }

    pub(super) fn between(&self, phase: usize) -> PathBuf {
        self.phase(phase).join("documents")
    }

    pub(super) fn documents(&self, phase: &Phase, shard: &Shard, recipe: &Recipe) -> PathBuf {
        if phase.after.is_some() {
            return self.between(phase.number).join(format!("shard-{:05}.jsonl.zst", shard.number));
        }
        let folder = self.root.join("documents").join(&recipe.sources[shard.source].name);
        folder.join(format!("shard-{:05}.{}", shard.number, DocumentFile::ending(recipe.output.format)))
    }

    pub(super) fn rows_folder(&self, phase: usize) -> PathBuf {
        self.phase(phase).join("rows")
    }

    pub(super) fn rows(&self, phase: &Phase, shard: u32) -> PathBuf {
        self.rows_folder(phase.number).join(format!("shard-{shard:05}"))
    }

    pub(super) fn decisions(&self, phase: usize) -> PathBuf {
        self.phase(phase).join("decisions")
    }

    /// Written after the decisions.
    pub(super) fn resolution(&self, phase: usize) -> PathBuf {
        self.phase(phase).join("resolution.json")
    }

    pub(super) fn removed(&self, step: &str, shard: u32) -> PathBuf {
        self.root.join("removed").join(step).join(format!("shard-{shard:05}.jsonl.zst"))
    }

    pub(super) fn relative(&self, path: &Path) -> String {
        let relative = path.strip_prefix(&self.root).unwrap_or(path);
        relative.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/")
    }
}
