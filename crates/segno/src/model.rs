//! A model file: its graph, its vocabulary, its chat template.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use segno_gguf::{Gguf, Value};
use segno_ir::{Device, DeviceKind, KvType};
use segno_runtime::store::{Store, StoreOptions};
use segno_runtime::{
    CheckpointMode, CheckpointOptions, Engine, EngineOptions, Executor, ExecutorOptions, Sampler, Sampling,
};
use segno_text::{BuiltinFormat, ChatTemplate, SpecialIds, Tokenizer, VocabSource};

use crate::device::open_device;
use crate::{Error, Session};

static DEMO: &[u8] = include_bytes!("../models/segno-demo-q8_0.gguf");

/// Context that is planned unless asked otherwise: enough for long chats, small enough for any machine.
const DEFAULT_CONTEXT: u32 = 8192;

/// An opened model file. Nothing is loaded to a device yet.
#[derive(Clone)]
pub struct Model(pub(crate) Arc<Parts>);

pub(crate) struct Parts {
    pub gguf: Gguf,
    pub model: segno_models::Model,
    pub tokenizer: Tokenizer,
    pub template: ChatTemplate,
    pub name: String,
}

/// How a model is loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// As `--device` takes it; `auto` by default.
    pub device: String,
    /// Threads of the CPU backend; `None`: one per core.
    pub threads: Option<usize>,
    /// Tokens of the longest sequence; `None`: what the model was trained on, at most 8192; 0: all of that.
    pub context: Option<u32>,
    /// Rows of a prefill step.
    pub batch: u32,
    /// Sequences at once.
    pub sequences: u32,
    /// Type of stored keys.
    pub k_type: KvType,
    /// Type of stored values.
    pub v_type: KvType,
    /// What is remembered of prompts and replies.
    pub checkpoints: CheckpointOptions,
    /// Bytes that this may hold on the device; `None`: about two contexts' worth.
    pub checkpoint_bytes: Option<u64>,
    /// Bytes of the host's memory for what the device has no room for; `None`: a quarter of what is free beside a
    /// device with memory of its own, nothing beside others.
    pub checkpoint_ram: Option<u64>,
    /// A folder where they outlive the program, and how it is used. Nothing but f32 is taken with
    /// [`CheckpointOptions::exact`].
    pub store: Option<(PathBuf, StoreOptions)>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions {
            device: "auto".into(),
            threads: None,
            context: None,
            batch: 512,
            sequences: 1,
            k_type: KvType::F32,
            v_type: KvType::F32,
            checkpoints: CheckpointOptions::default(),
            checkpoint_bytes: None,
            checkpoint_ram: None,
            store: None,
        }
    }
}

impl Model {
    /// Opens a file. Its weights stay mapped.
    pub fn open(path: impl AsRef<Path>) -> Result<Model, Error> {
        let path = path.as_ref();
        Self::from_gguf(Gguf::open(path)?, path.display().to_string())
    }

    /// The tiny model that comes with the program.
    pub fn demo() -> Result<Model, Error> {
        Self::from_gguf(Gguf::from_static(DEMO)?, "the demo model".into())
    }

    fn from_gguf(gguf: Gguf, path: String) -> Result<Model, Error> {
        let model = segno_models::build(&gguf).map_err(|error| Error::Model { path: path.clone(), error })?;
        let tokenizer = tokenizer(&gguf, &path)?;
        let template = gguf.get(TEMPLATE).and_then(Value::as_str);
        let special = tokenizer.special();
        let template = template.unwrap_or_else(|| BuiltinFormat::detect(&tokenizer).source());
        let (bos, eos) = (tokenizer.template_text(special.bos), tokenizer.template_text(special.eos));
        let template = ChatTemplate::new(template, bos, eos)?;
        let name = gguf.get("general.name").and_then(Value::as_str).unwrap_or(&path).to_string();
        Ok(Model(Arc::new(Parts { gguf, model, tokenizer, template, name })))
    }

    /// The file.
    pub fn gguf(&self) -> &Gguf {
        &self.0.gguf
    }

    /// The graph and what belongs to it.
    pub fn graph(&self) -> &segno_models::Model {
        &self.0.model
    }

    /// The vocabulary.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.0.tokenizer
    }

    /// The chat template: the file's, or the one that its vocabulary's markers suggest.
    pub fn template(&self) -> &ChatTemplate {
        &self.0.template
    }

    /// `general.name`, or the path.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The samplers that the model's author recommends (`general.sampling.*`); llama.cpp's defaults where the file says
    /// nothing. Values without a meaning are passed over with a warning.
    pub fn sampling(&self) -> Sampling {
        let mut sampling = Sampling::default();
        let number = |key: &str| self.gguf().get(&format!("general.sampling.{key}")).and_then(Value::as_f64);
        let mut take = |key: &str, set: &dyn Fn(&mut Sampling, f64)| {
            let Some(x) = number(key) else { return };
            let mut changed = sampling.clone();
            set(&mut changed, x);
            match changed.check() {
                Ok(()) => sampling = changed,
                Err(error) => log::warn!("{}: general.sampling.{key} is passed over: {error}", self.name()),
            }
        };
        take("top_k", &|s, x| s.top_k = x as u32);
        take("top_p", &|s, x| s.top_p = x as f32);
        take("min_p", &|s, x| s.min_p = x as f32);
        take("temp", &|s, x| s.temperature = x as f32);
        take("xtc_probability", &|s, x| s.xtc_probability = x as f32);
        take("xtc_threshold", &|s, x| s.xtc_threshold = x as f32);
        take("penalty_last_n", &|s, x| s.penalty_last_n = x as i32);
        take("penalty_repeat", &|s, x| s.penalty_repeat = x as f32);
        take("mirostat", &|s, x| s.mirostat = x as u8);
        take("mirostat_tau", &|s, x| s.mirostat_tau = x as f32);
        take("mirostat_eta", &|s, x| s.mirostat_eta = x as f32);
        let sequence = self.gguf().get("general.sampling.sequence").and_then(Value::as_str);
        if let Some(letters) = sequence {
            match letters.chars().map(Sampler::from_letter).collect() {
                Ok(order) => sampling.order = order,
                Err(error) => log::warn!("{}: general.sampling.sequence is passed over: {error}", self.name()),
            }
        }
        sampling
    }

    /// Tokens of context that these options plan.
    pub fn context(&self, options: &LoadOptions) -> u32 {
        let trained = self.0.model.n_ctx_train.max(1);
        match options.context {
            None => trained.min(DEFAULT_CONTEXT),
            Some(0) => trained,
            Some(n) => n,
        }
    }

    /// Loads the model to a device.
    pub fn executor(&self, device: Arc<dyn Device>, options: ExecutorOptions) -> Result<Executor, Error> {
        let model = &self.0.model;
        Ok(Executor::load(device, &model.graph, model.source.clone(), options)?)
    }

    /// Loads the model to a device and starts an engine.
    pub fn load(&self, options: &LoadOptions) -> Result<Session, Error> {
        let device = open_device(&options.device, options.threads)?;
        let n_ctx = self.context(options);
        if n_ctx > self.0.model.n_ctx_train {
            log::warn!(
                "the model was trained on {} tokens; beyond them its replies get worse",
                self.0.model.n_ctx_train
            );
        }
        let batch = options.batch.max(segno_ir::PAGE_TOKENS);
        let checkpoint_slots = match options.checkpoints.mode {
            // Those that are kept, the tail, the live end, and what a step takes before the oldest go.
            CheckpointMode::Hybrid { interval, slots } => slots.saturating_add(4 + batch / interval.max(1)),
            _ => 0,
        };
        let described = device.describe().clone();
        let free = segno_cpu::free_memory();
        let checkpoint_ram = match options.checkpoints.mode {
            CheckpointMode::Tree if described.kind == DeviceKind::DiscreteGpu => free.unwrap_or(0) / 4,
            _ => 0,
        };
        let executor_options = ExecutorOptions {
            n_ctx,
            n_sequences: options.sequences,
            max_rows: batch,
            checkpoint_bytes: options.checkpoint_bytes,
            checkpoint_slots,
            checkpoint_ram: options.checkpoint_ram.unwrap_or(checkpoint_ram),
            host_limit: free,
            k_type: options.k_type,
            v_type: options.v_type,
            ..ExecutorOptions::default()
        };
        log::info!("device: {} ({}, {})", described.name, described.backend, described.driver);
        let executor = self.executor(device, executor_options)?;
        for line in executor.ledger().to_string().lines() {
            log::info!("memory: {}", line.trim());
        }
        let n_tokens = self.0.model.graph.n_tokens();
        let open = |(folder, options): &(PathBuf, StoreOptions)| {
            Store::open(folder, executor.fingerprint(), options.clone()).map(Arc::new)
        };
        let store = options.store.as_ref().map(open).transpose()?;
        let engine = EngineOptions { checkpoints: options.checkpoints.clone(), store, ..EngineOptions::default() };
        Ok(Session::new(self.clone(), Engine::start(executor, n_tokens, engine), described))
    }
}

/// Opens a file's vocabulary alone; the file need not hold a model that can be run.
pub fn open_tokenizer(path: impl AsRef<Path>) -> Result<Tokenizer, Error> {
    let path = path.as_ref();
    tokenizer(&Gguf::open(path)?, &path.display().to_string())
}

fn tokenizer(gguf: &Gguf, path: &str) -> Result<Tokenizer, Error> {
    Tokenizer::from_source(vocabulary(gguf)).map_err(|error| Error::Vocabulary { path: path.into(), error })
}

const TEMPLATE: &str = "tokenizer.chat_template";

/// What the file says about its vocabulary.
fn vocabulary(gguf: &Gguf) -> VocabSource {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let text = |full: &str| gguf.get(full).and_then(Value::as_str).unwrap_or_default().to_string();
    let flag = |name: &str| gguf.get(&key(name)).and_then(Value::as_bool);
    let id = |name: &str| gguf.get(&key(name)).and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
    let array = |name: &str| gguf.get(&key(name)).and_then(Value::as_array);
    let strings = |name: &str| -> Vec<Vec<u8>> {
        array(name).map_or_else(Vec::new, |a| a.strings().map(<[u8]>::to_vec).collect())
    };
    let named = |(name, value): (&str, &Value)| {
        let name = name.strip_prefix(TEMPLATE)?.strip_prefix('.')?;
        Some((name.to_string(), value.as_str()?.to_string()))
    };
    VocabSource {
        model: text(&key("model")),
        pre: text(&key("pre")),
        name: text("general.name"),
        tokens: strings("tokens"),
        scores: array("scores").map_or_else(Vec::new, |a| a.iter().map(|v| v.as_f64().unwrap_or(0.0) as f32).collect()),
        token_types: array("token_type")
            .map_or_else(Vec::new, |a| a.iter().map(|v| v.as_i64().unwrap_or(1) as i32).collect()),
        merges: strings("merges"),
        special: SpecialIds {
            bos: id("bos_token_id"),
            eos: id("eos_token_id"),
            eot: id("eot_token_id"),
            eom: id("eom_token_id"),
            unk: id("unknown_token_id"),
            sep: id("seperator_token_id"),
            pad: id("padding_token_id"),
            cls: id("cls_token_id"),
            mask: id("mask_token_id"),
            fim_pre: id("fim_pre_token_id"),
            fim_suf: id("fim_suf_token_id"),
            fim_mid: id("fim_mid_token_id"),
            fim_pad: id("fim_pad_token_id"),
            fim_rep: id("fim_rep_token_id"),
            fim_sep: id("fim_sep_token_id"),
        },
        add_bos: flag("add_bos_token"),
        add_eos: flag("add_eos_token"),
        add_space_prefix: flag("add_space_prefix"),
        remove_extra_whitespaces: flag("remove_extra_whitespaces"),
        precompiled_charsmap: array("precompiled_charsmap")
            .map_or_else(Vec::new, |a| a.iter().map(|v| v.as_i64().unwrap_or(0) as u8).collect()),
        chat_template: gguf.get(TEMPLATE).and_then(Value::as_str).map(str::to_string),
        chat_templates: gguf.metadata().filter_map(named).collect(),
    }
}
