//! From what was written to a whole [`Run`]: preset, recipe and defaults fill in the rest.

use crate::error::{Errors, Fault, Place, Problem};
use crate::keys::{self, Setting};
use crate::model::{Activation, Dropout, Init, Mask, Model, NormKind, Positions};
use crate::presets::{self, Preset, Recipe};
use crate::run::*;
use crate::settings::Settings;
use crate::{document, rules};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

impl Run {
    /// Reads a run file and lays `overrides` (`a.b=c`) over it. All problems are found before it returns.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, Errors> {
        let file = path.display().to_string();
        let whole = |fault| Errors {
            file: file.clone(),
            text: Arc::from(""),
            problems: vec![Problem { place: Place::Whole, fault }],
        };
        let bytes =
            std::fs::read(path).map_err(|error| whole(Fault::Unreadable { reason: error.to_string() }))?;
        let text = String::from_utf8(bytes)
            .map_err(|error| whole(Fault::NotText { offset: error.utf8_error().valid_up_to() }))?;
        Self::parse(&file, &text, overrides)
    }

    /// As [`Run::load`], from text; `file` names it in messages.
    pub fn parse(file: &str, text: &str, overrides: &[String]) -> Result<Self, Errors> {
        let errors = |problems| Errors { file: file.to_owned(), text: Arc::from(text), problems };
        let mut root = document::read(text).map_err(|syntax| {
            let problem = |(span, message)| Problem {
                place: Place::in_file(text, span),
                fault: Fault::Syntax { message },
            };
            errors(syntax.into_iter().map(problem).collect())
        })?;
        let mut problems = Vec::new();
        for (index, argument) in overrides.iter().enumerate() {
            if let Err(fault) = document::set(&mut root, index, argument) {
                problems.push(Problem { place: Place::Set { argument: argument.clone() }, fault });
            }
        }
        let mut settings = Settings::check(&root);
        let run = Resolver { settings: &mut settings }.run();
        rules::check(&run, &mut settings);
        problems.extend(settings.problems.into_iter().map(|(origin, fault)| Problem {
            place: match origin {
                Some(document::Origin::File(span)) => Place::in_file(text, span),
                Some(document::Origin::Set(index)) => Place::Set { argument: overrides[index].clone() },
                None => Place::Whole,
            },
            fault,
        }));
        if problems.is_empty() { Ok(run) } else { Err(errors(problems)) }
    }
}

/// Reads settings of a known type; what is absent or faulty is none.
struct Resolver<'a> {
    settings: &'a mut Settings,
}

impl Resolver<'_> {
    fn integer(&self, key: &str) -> Option<u64> {
        match self.settings.get(key)? {
            Setting::Integer(integer) => Some(*integer),
            _ => None,
        }
    }

    fn size(&self, key: &str) -> Option<usize> {
        self.integer(key).map(|integer| integer as usize)
    }

    fn number(&self, key: &str) -> Option<f64> {
        match self.settings.get(key)? {
            Setting::Number(number) => Some(*number),
            _ => None,
        }
    }

    fn float(&self, key: &str) -> Option<f32> {
        self.number(key).map(|number| number as f32)
    }

    fn flag(&self, key: &str) -> Option<bool> {
        match self.settings.get(key)? {
            Setting::Boolean(flag) => Some(*flag),
            _ => None,
        }
    }

    fn text(&self, key: &str) -> Option<&str> {
        match self.settings.get(key)? {
            Setting::Text(text) => Some(text),
            _ => None,
        }
    }

    fn name<T: FromStr>(&self, key: &str) -> Option<T> {
        self.text(key)?.parse().ok()
    }

    fn amount(&self, key: &str) -> Option<Amount> {
        match self.settings.get(key)? {
            Setting::Amount(amount) => Some(*amount),
            _ => None,
        }
    }

    /// Reports a required key as missing, unless something about it is reported already.
    fn missing(&mut self, path: &str, pattern: &str) {
        if self.settings.get(path).is_some() || self.settings.is_faulty(path) {
            return;
        }
        let (about, works) = keys::find(pattern).map_or(("", ""), |key| (key.about, key.example));
        let fault = Fault::Missing { key: path.to_owned(), about, works: works.to_owned() };
        let origin = self.settings.origin(&[path]);
        self.settings.report(path, origin, fault);
    }

    fn run(&mut self) -> Run {
        let preset = self.text("model.preset").and_then(presets::find);
        let preset_is_faulty = self.settings.is_faulty("model.preset");
        let model = self.model(preset, preset_is_faulty);
        let data = Data {
            blend: self.sources("data.blend", true),
            validation: self.sources("data.validation", false),
            seed: self.integer("data.seed").unwrap_or(1),
        };
        let train = self.train(&model, preset, preset_is_faulty, !data.validation.is_empty());
        Run {
            model,
            data,
            train,
            layout: Layout {
                micro_batch: self.size("layout.micro_batch").unwrap_or(1),
                recompute: self.name("layout.recompute").unwrap_or(Recompute::None),
                tensor: self.size("layout.tensor").unwrap_or(1),
                pipeline: self.size("layout.pipeline").unwrap_or(1),
                data: self.size("layout.data").unwrap_or(0),
                sequence_parallel: self.flag("layout.sequence_parallel").unwrap_or(false),
                schedule: self.name("layout.schedule").unwrap_or(ScheduleKind::OneForwardOneBackward),
                chunks: self.size("layout.chunks").unwrap_or(1),
                zero: self.size("layout.zero").unwrap_or(0),
                peer_timeout: self.integer("layout.peer_timeout").unwrap_or(PEER_TIMEOUT),
            },
            checkpoint: Checkpoint {
                every: self.amount("checkpoint.every").unwrap_or(Amount::Steps(1000)),
                keep: self.size("checkpoint.keep").unwrap_or(3),
            },
            numerics: Numerics {
                mode: self.name("numerics.mode").unwrap_or(NumericsMode::Exact),
                tensor_shards: self.size("numerics.tensor_shards").unwrap_or(crate::split::SHARDS),
                data_groups: self.size("numerics.data_groups").unwrap_or(0),
            },
            device: Device {
                kind: self.name("device.kind").unwrap_or(DeviceKind::Cpu),
                threads: self.size("device.threads").unwrap_or(0),
                kernel: self.name("device.kernel").unwrap_or(Kernel::Auto),
            },
        }
    }

    fn model(&mut self, preset: Option<&Preset>, preset_is_faulty: bool) -> Model {
        let shape = ["model.layers", "model.hidden", "model.heads", "model.vocab"];
        if preset.is_none() && !preset_is_faulty {
            if !self.settings.any_below("model.") && !self.settings.is_faulty("model") {
                self.missing("model.preset", "model.preset");
            } else {
                shape.iter().for_each(|key| self.missing(key, key));
            }
        }
        let base = preset.map(|preset| &preset.model);
        let of = |value: fn(&Model) -> usize| base.map(value);
        let [layers, hidden, heads, vocab] = shape.map(|key| self.size(key));
        let wider = hidden.is_some();
        let split = wider || heads.is_some();
        let layers = layers.or(of(|m| m.layers)).unwrap_or(1);
        let hidden = hidden.or(of(|m| m.hidden)).unwrap_or(1);
        let heads = heads.or(of(|m| m.heads)).unwrap_or(1);
        let vocab = vocab.or(of(|m| m.vocab)).unwrap_or(1);
        let activation =
            self.name("model.activation").or(base.map(|m| m.activation)).unwrap_or(Activation::Gelu);
        let ffn = match base {
            Some(base) if wider => (base.ffn * hidden).div_ceil(base.hidden),
            Some(base) => base.ffn,
            None if activation == Activation::Swiglu => (8 * hidden).div_ceil(3).next_multiple_of(64),
            None => 4 * hidden,
        };
        let positions = match self.text("model.positions") {
            Some("learned") => Positions::Learned,
            Some(_) => match base.map(|m| m.positions) {
                Some(rotary @ Positions::Rotary { .. }) => rotary,
                _ => Positions::Rotary { base: 10_000.0 },
            },
            None => base.map_or(Positions::Learned, |m| m.positions),
        };
        let positions = match (positions, self.float("model.rope_base")) {
            (Positions::Rotary { .. }, Some(base)) => Positions::Rotary { base },
            _ => positions,
        };
        let all = self.float("model.dropout");
        let drop = |key: &str, value: fn(&Dropout) -> f32| {
            self.float(key).or(all).or(base.map(|m| value(&m.dropout))).unwrap_or(0.0)
        };
        Model {
            layers,
            hidden,
            heads,
            kv_heads: self
                .size("model.kv_heads")
                .unwrap_or_else(|| base.map_or(heads, |m| (m.kv_heads * heads / m.heads).max(1))),
            head_dim: self.size("model.head_dim").unwrap_or_else(|| match base {
                Some(base) if !split => base.head_dim,
                _ => (hidden / heads).max(1),
            }),
            ffn: self.size("model.ffn").unwrap_or(ffn),
            vocab,
            sequence: self.size("model.sequence").or(of(|m| m.sequence)).unwrap_or(1024),
            norm: self.name("model.norm").or(base.map(|m| m.norm)).unwrap_or(NormKind::Layer),
            norm_eps: self.float("model.norm_eps").or(base.map(|m| m.norm_eps)).unwrap_or(1e-5),
            activation,
            positions,
            bias: self.flag("model.bias").or(base.map(|m| m.bias)).unwrap_or(true),
            tied: self.flag("model.tied").or(base.map(|m| m.tied)).unwrap_or(true),
            mask: self.name("model.mask").or(base.map(|m| m.mask)).unwrap_or(Mask::Causal),
            dropout: Dropout {
                embedding: drop("model.dropout.embedding", |d| d.embedding),
                attention: drop("model.dropout.attention", |d| d.attention),
                hidden: drop("model.dropout.hidden", |d| d.hidden),
            },
            init: Init {
                std: self.float("model.init.std").or(base.map(|m| m.init.std)).unwrap_or(0.02),
                scale_outputs: self
                    .flag("model.init.scale_outputs")
                    .or(base.map(|m| m.init.scale_outputs))
                    .unwrap_or(true),
            },
        }
    }

    fn sources(&mut self, list: &str, required: bool) -> Vec<Source> {
        let length = self.settings.length(list);
        if required && length == 0 && !self.settings.is_faulty(list) {
            let origin = self.settings.origin(&[list]);
            let fault = Fault::Missing {
                key: list.to_owned(),
                about: "the token files to train on",
                works: "[{ path = \"tokens/wiki\", weight = 1.0 }]".to_owned(),
            };
            self.settings.report(list, origin, fault);
        }
        let mut sources = Vec::with_capacity(length);
        for index in 0..length {
            let path = format!("{list}[{index}].path");
            self.missing(&path, &format!("{list}[].path"));
            sources.push(Source {
                path: PathBuf::from(self.text(&path).unwrap_or_default()),
                weight: self.number(&format!("{list}[{index}].weight")).unwrap_or(1.0),
            });
        }
        sources
    }

    fn train(
        &mut self,
        model: &Model,
        preset: Option<&Preset>,
        preset_is_faulty: bool,
        held_out: bool,
    ) -> Train {
        if preset.is_none() && !preset_is_faulty {
            self.missing("train.stop", "train.stop");
        }
        let recipe = preset.map(|preset| preset.recipe);
        let base = recipe.unwrap_or_else(|| self.default_recipe());
        let rate = base.learning_rate;
        let peak = self.float("train.learning_rate.peak").unwrap_or(rate.peak);
        let tail = self.float("train.learning_rate.tail");
        let decay = match self.text("train.learning_rate.decay") {
            Some("constant") => Decay::Constant,
            Some("linear") => Decay::Linear,
            Some("cosine") => Decay::Cosine,
            Some("inverse-sqrt") => Decay::InverseSqrt,
            Some(_) => Decay::WarmupStableDecay { tail: tail.unwrap_or(0.1) },
            None => rate.decay,
        };
        let optimizer = base.optimizer;
        let betas = match self.settings.get("train.optimizer.betas") {
            Some(Setting::Pair(betas)) => betas.map(|beta| beta as f32),
            _ => optimizer.betas,
        };
        let scale = LossScale::default();
        let nonfinite = OnNonfinite::default();
        let mut train = Train {
            precision: self.name("train.precision").unwrap_or(base.precision),
            seed: self.integer("train.seed").unwrap_or(1),
            sequence: self.size("train.sequence").unwrap_or(model.sequence),
            global_batch: self.global_batch(base.global_batch, recipe.is_some()),
            learning_rate: LearningRate {
                peak,
                warmup: self.amount("train.learning_rate.warmup").unwrap_or(rate.warmup),
                decay,
                over: self.amount("train.learning_rate.over").unwrap_or(rate.over),
                floor: self.float("train.learning_rate.floor").unwrap_or(if peak == rate.peak {
                    rate.floor
                } else {
                    (f64::from(peak) * f64::from(rate.floor) / f64::from(rate.peak)) as f32
                }),
            },
            optimizer: Optimizer {
                kind: self.name("train.optimizer.kind").unwrap_or(optimizer.kind),
                betas,
                eps: self.float("train.optimizer.eps").unwrap_or(optimizer.eps),
                weight_decay: self.float("train.optimizer.weight_decay").unwrap_or(optimizer.weight_decay),
                clip: self.float("train.optimizer.clip").unwrap_or(optimizer.clip),
            },
            stop: self.amount("train.stop").unwrap_or(base.stop),
            loss_scale: LossScale {
                initial: self.float("train.loss_scale.initial").unwrap_or(scale.initial),
                minimum: self.float("train.loss_scale.minimum").unwrap_or(scale.minimum),
                window: self.integer("train.loss_scale.window").unwrap_or(scale.window),
                hysteresis: self
                    .integer("train.loss_scale.hysteresis")
                    .map_or(scale.hysteresis, |count| count as u32),
            },
            on_spike: self.settings.has_section("train.on_spike").then(|| OnSpike {
                loss_sigma: self.float("train.on_spike.loss_sigma").unwrap_or(6.0),
                norm_sigma: self.float("train.on_spike.norm_sigma").unwrap_or(0.0),
                window: self.integer("train.on_spike.window").unwrap_or(100),
                action: self.name("train.on_spike.action").unwrap_or(SpikeAction::Skip),
                limit: self.integer("train.on_spike.limit").map_or(10, |limit| limit as u32),
            }),
            on_nonfinite: OnNonfinite {
                action: self.name("train.on_nonfinite.action").unwrap_or(nonfinite.action),
                limit: self.integer("train.on_nonfinite.limit").map_or(nonfinite.limit, |limit| limit as u32),
            },
            evaluate_every: self.integer("train.evaluate_every").unwrap_or(if held_out { 1000 } else { 0 }),
            evaluate_samples: self.integer("train.evaluate_samples").unwrap_or(256),
        };
        let rate = train.learning_rate;
        if rate.warmup.unit() != rate.over.unit() {
            let samples = |amount| Amount::Samples(train.samples_in(amount).min(Amount::MOST));
            let (warmup, over) = (samples(rate.warmup), samples(rate.over));
            train.learning_rate = LearningRate { warmup, over, ..rate };
        }
        train
    }

    /// The recipe of a model without preset: everything follows `stop`.
    fn default_recipe(&self) -> Recipe {
        let stop = self.amount("train.stop").unwrap_or(Amount::Steps(1000));
        let over = self.amount("train.learning_rate.over").unwrap_or(stop);
        Recipe {
            precision: Precision::Bf16,
            global_batch: GlobalBatch::constant(64),
            learning_rate: LearningRate {
                peak: 3e-4,
                warmup: over.with_number(over.number() / 100),
                decay: Decay::Cosine,
                over,
                floor: 3e-5,
            },
            optimizer: Optimizer {
                kind: OptimizerKind::Adamw,
                betas: [0.9, 0.95],
                eps: 1e-8,
                weight_decay: 0.1,
                clip: 1.0,
            },
            stop,
        }
    }

    fn global_batch(&self, base: GlobalBatch, from_recipe: bool) -> GlobalBatch {
        if let Some(batch) = self.integer("train.global_batch") {
            return GlobalBatch::constant(batch);
        }
        let end = self.integer("train.global_batch.end").unwrap_or(base.end);
        let start = self.integer("train.global_batch.start");
        GlobalBatch {
            start: start.unwrap_or(if from_recipe { base.start } else { end }),
            step: self.integer("train.global_batch.step").unwrap_or(base.step),
            end,
            over: self.amount("train.global_batch.over").unwrap_or(base.over),
        }
    }
}
