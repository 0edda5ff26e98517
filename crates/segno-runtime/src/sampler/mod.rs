//! Samplers on the host: llama.cpp's, with its names, order and defaults.
//!
//! A [`Chain`] holds the candidates in the order of their ids. A filter that cuts by rank keeps everything above a
//! threshold, so equal candidates stay or go together; the draw is the one of [`segno_ir::sample`], by seed, position
//! and id. A chain whose samplers the device has too ([`Sampling::device`]) therefore draws the same tokens there. Its
//! state follows from the tokens alone: a prompt that is read again is replied to with the same tokens.

mod dry;
mod filter;
mod mirostat;

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use segno_ir::sample::{SampleParams, philox};

use filter::Candidate;

/// A sampler that can be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampler {
    /// Repetition, frequency and presence penalties (Keskar et al., CTRL, 2019).
    Penalties,
    /// Penalty on tokens that would prolong a repetition.
    Dry,
    /// Keeps logits within some standard deviations of the largest (Tang et al., 2024).
    TopNSigma,
    /// Keeps the k largest.
    TopK,
    /// Locally typical sampling (Meister et al., 2022).
    Typical,
    /// Nucleus sampling (Holtzman et al., 2020).
    TopP,
    /// Keeps a share of the largest probability and more (Nguyen et al., 2024).
    MinP,
    /// Drops the likeliest candidates but the last that is likely enough, now and then.
    Xtc,
    /// Temperature, fixed or by entropy.
    Temperature,
    /// Draws near a target probability; takes the place of the draw wherever it is listed.
    AdaptiveP,
}

/// Sampler, llama.cpp's letter and its names, the usual one first.
const SAMPLERS: &[(Sampler, char, &[&str])] = &[
    (Sampler::Penalties, 'e', &["penalties"]),
    (Sampler::Dry, 'd', &["dry"]),
    (Sampler::TopNSigma, 's', &["top_n_sigma", "top-n-sigma"]),
    (Sampler::TopK, 'k', &["top_k", "top-k"]),
    (Sampler::Typical, 'y', &["typ_p", "typical", "typical-p", "typical_p", "typ-p", "typ"]),
    (Sampler::TopP, 'p', &["top_p", "top-p", "nucleus"]),
    (Sampler::MinP, 'm', &["min_p", "min-p"]),
    (Sampler::Xtc, 'x', &["xtc"]),
    (Sampler::Temperature, 't', &["temperature", "temp"]),
    (Sampler::AdaptiveP, 'a', &["adaptive_p", "adaptive-p"]),
];

impl Sampler {
    /// All but adaptive-p, in llama.cpp's order.
    pub fn default_order() -> Vec<Sampler> {
        SAMPLERS.iter().map(|s| s.0).filter(|&s| s != Sampler::AdaptiveP).collect()
    }

    /// llama.cpp's name.
    pub fn name(self) -> &'static str {
        SAMPLERS.iter().find(|s| s.0 == self).map_or("", |s| s.2[0])
    }

    /// The sampler of a letter, as in `edskypmxt`.
    pub fn from_letter(letter: char) -> Result<Sampler, SamplingError> {
        let found = SAMPLERS.iter().find(|s| s.1 == letter).map(|s| s.0);
        found.ok_or_else(|| SamplingError::new("sampler-seq", letter, "letters of edskypmxta"))
    }
}

impl FromStr for Sampler {
    type Err = SamplingError;

    fn from_str(name: &str) -> Result<Sampler, SamplingError> {
        let found = SAMPLERS.iter().find(|s| s.2.contains(&name)).map(|s| s.0);
        found.ok_or_else(|| {
            let names: Vec<&str> = SAMPLERS.iter().map(|s| s.2[0]).collect();
            SamplingError::new("samplers", name, format!("names of {}", names.join(", ")))
        })
    }
}

/// A value that a sampler cannot have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} is {value}, expected {expected}")]
pub struct SamplingError {
    /// The parameter, as llama.cpp's flag is called without its dashes.
    name: &'static str,
    value: String,
    expected: String,
}

impl SamplingError {
    fn new(name: &'static str, value: impl fmt::Display, expected: impl Into<String>) -> Self {
        SamplingError { name, value: value.to_string(), expected: expected.into() }
    }
}

/// Which samplers run, and how. The default is llama.cpp's.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// The samplers in their order; what is not listed does not run.
    pub order: Vec<Sampler>,
    /// Candidates that typical-p, top-p, min-p and xtc leave at least.
    pub min_keep: usize,
    /// 0 or less: the likeliest of what is left.
    pub temperature: f32,
    /// Temperatures from `temperature` less this to `temperature` plus this, by entropy; 0: fixed.
    pub dynatemp_range: f32,
    /// Exponent of the entropy, which is normalised to 0..1.
    pub dynatemp_exponent: f32,
    /// Keeps the k largest; 0: all.
    pub top_k: u32,
    /// Keeps the smallest set of likeliest candidates that reaches this share; 1: all.
    pub top_p: f32,
    /// Keeps probabilities of at least this share of the largest; 0: all.
    pub min_p: f32,
    /// Keeps the candidates nearest to the entropy up to this share; 1: all.
    pub typical_p: f32,
    /// Keeps logits of at least the largest less this many standard deviations; 0 or less: all.
    pub top_n_sigma: f32,
    /// How often xtc acts; 0: never.
    pub xtc_probability: f32,
    /// What is likely enough for xtc; above 0.5: nothing.
    pub xtc_threshold: f32,
    /// Tokens that penalties look back; 0: off, -1: all.
    pub penalty_last_n: i32,
    /// Divides positive and multiplies negative logits of tokens that occurred; 1: off.
    pub penalty_repeat: f32,
    /// Taken off for each occurrence.
    pub penalty_frequency: f32,
    /// Taken off once.
    pub penalty_presence: f32,
    /// DRY's factor; 0: off.
    pub dry_multiplier: f32,
    /// DRY's base; below 1: off.
    pub dry_base: f32,
    /// Repetitions up to this length are free.
    pub dry_allowed_length: usize,
    /// Tokens that DRY looks back; 0: off, -1: all.
    pub dry_last_n: i32,
    /// Where repetitions end: a token, and those that must follow it.
    pub dry_breakers: Vec<(u32, Vec<u32>)>,
    /// Mirostat's version (Basu et al., 2021): only temperature and it run; 0: off.
    pub mirostat: u8,
    /// Its target surprise, in bits.
    pub mirostat_tau: f32,
    /// Its learning rate.
    pub mirostat_eta: f32,
    /// Target probability of adaptive-p; negative: off.
    pub adaptive_target: f32,
    /// How much of its past adaptive-p keeps at each token, up to 0.99.
    pub adaptive_decay: f32,
}

impl Default for Sampling {
    fn default() -> Self {
        let SampleParams { temperature, top_k, top_p, min_p, .. } = SampleParams::default();
        Sampling {
            order: Sampler::default_order(),
            min_keep: 0,
            temperature,
            dynatemp_range: 0.0,
            dynatemp_exponent: 1.0,
            top_k,
            top_p,
            min_p,
            typical_p: 1.0,
            top_n_sigma: -1.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            penalty_last_n: 64,
            penalty_repeat: 1.0,
            penalty_frequency: 0.0,
            penalty_presence: 0.0,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_last_n: 64,
            dry_breakers: Vec::new(),
            mirostat: 0,
            mirostat_tau: 5.0,
            mirostat_eta: 0.1,
            adaptive_target: -1.0,
            adaptive_decay: 0.9,
        }
    }
}

impl Sampling {
    /// Always the likeliest token.
    pub fn greedy() -> Self {
        Sampling { temperature: 0.0, ..Self::default() }
    }

    /// Refuses values without a meaning.
    pub fn check(&self) -> Result<(), SamplingError> {
        let need = |right: bool, name, value: f32, expected: &str| match right {
            true => Ok(()),
            false => Err(SamplingError::new(name, value, expected)),
        };
        for (name, value) in [
            ("top-p", self.top_p),
            ("min-p", self.min_p),
            ("typical", self.typical_p),
            ("xtc-probability", self.xtc_probability),
            ("xtc-threshold", self.xtc_threshold),
        ] {
            need((0.0..=1.0).contains(&value), name, value, "a number from 0 to 1")?;
        }
        for (name, value) in [
            ("temp", self.temperature),
            ("dynatemp-range", self.dynatemp_range),
            ("dynatemp-exp", self.dynatemp_exponent),
            ("dry-multiplier", self.dry_multiplier),
            ("dry-base", self.dry_base),
            ("mirostat-ent", self.mirostat_tau),
            ("mirostat-lr", self.mirostat_eta),
        ] {
            need(value.is_finite() && value >= 0.0, name, value, "0 or more")?;
        }
        for (name, value) in [
            ("top-nsigma", self.top_n_sigma),
            ("frequency-penalty", self.penalty_frequency),
            ("presence-penalty", self.penalty_presence),
        ] {
            need(value.is_finite(), name, value, "a finite number")?;
        }
        let repeat = self.penalty_repeat;
        need(repeat.is_finite() && repeat > 0.0, "repeat-penalty", repeat, "a finite number above 0")?;
        for (name, value) in [("repeat-last-n", self.penalty_last_n), ("dry-penalty-last-n", self.dry_last_n)] {
            need(value >= -1, name, value as f32, "a number of tokens, 0 (off) or -1 (all)")?;
        }
        need(self.mirostat <= 2, "mirostat", self.mirostat.into(), "0, 1 or 2")?;
        let (target, decay) = (self.adaptive_target, self.adaptive_decay);
        need(target <= 1.0, "adaptive-target", target, "a probability, or a negative number (off)")?;
        need((0.0..=0.99).contains(&decay), "adaptive-decay", decay, "a number from 0 to 0.99")?;
        let listed = self.order.contains(&Sampler::AdaptiveP);
        need(target < 0.0 || listed, "adaptive-target", target, "adaptive_p among the samplers")
    }

    /// Whether a sampler can change anything.
    fn is_on(&self, sampler: Sampler) -> bool {
        match sampler {
            Sampler::Penalties => {
                self.penalty_last_n != 0
                    && (self.penalty_repeat, self.penalty_frequency, self.penalty_presence) != (1.0, 0.0, 0.0)
            }
            Sampler::Dry => self.dry_multiplier > 0.0 && self.dry_base >= 1.0 && self.dry_last_n != 0,
            Sampler::TopNSigma => self.top_n_sigma > 0.0,
            Sampler::TopK => self.top_k > 0,
            Sampler::Typical => self.typical_p < 1.0,
            Sampler::TopP => self.top_p < 1.0,
            Sampler::MinP => self.min_p > 0.0,
            Sampler::Xtc => self.xtc_probability > 0.0 && self.xtc_threshold <= 0.5,
            Sampler::Temperature => self.temperature != 1.0 || self.dynatemp_range > 0.0,
            Sampler::AdaptiveP => self.adaptive_target >= 0.0,
        }
    }

    /// The samplers that run before the draw.
    fn stages(&self) -> Vec<Sampler> {
        let listed = if self.mirostat > 0 { &[Sampler::Temperature][..] } else { &self.order };
        listed.iter().copied().filter(|&s| s != Sampler::AdaptiveP && self.is_on(s)).collect()
    }

    fn is_adaptive(&self) -> bool {
        self.mirostat == 0 && self.is_on(Sampler::AdaptiveP) && self.order.contains(&Sampler::AdaptiveP)
    }

    /// The same draws by a device's sampler, if it has all of these samplers in this order.
    pub fn device(&self, seed: u64) -> Option<SampleParams> {
        let stages = self.stages();
        let mut params = SampleParams { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed };
        let mut left = stages.iter().peekable();
        for sampler in [Sampler::TopK, Sampler::TopP, Sampler::MinP, Sampler::Temperature] {
            if left.next_if_eq(&&sampler).is_some() {
                match sampler {
                    Sampler::TopK => params.top_k = self.top_k,
                    Sampler::TopP => params.top_p = self.top_p,
                    Sampler::MinP => params.min_p = self.min_p,
                    _ => params.temperature = self.temperature,
                }
            }
        }
        let plain = self.mirostat == 0 && !self.is_adaptive() && self.dynatemp_range <= 0.0 && self.min_keep <= 1;
        (plain && left.next().is_none()).then_some(params)
    }
}

/// The samplers that run, with their values, and where.
impl fmt::Display for Sampling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for sampler in self.stages() {
            write!(f, "{}", sampler.name())?;
            match sampler {
                Sampler::Penalties => {
                    let (r, fr, p) = (self.penalty_repeat, self.penalty_frequency, self.penalty_presence);
                    write!(f, " (last {}, repeat {r}, frequency {fr}, presence {p})", self.penalty_last_n)?
                }
                Sampler::Dry => {
                    let (m, b, a) = (self.dry_multiplier, self.dry_base, self.dry_allowed_length);
                    write!(f, " (last {}, multiplier {m}, base {b}, allowed {a})", self.dry_last_n)?
                }
                Sampler::TopNSigma => write!(f, " {}", self.top_n_sigma)?,
                Sampler::TopK => write!(f, " {}", self.top_k)?,
                Sampler::Typical => write!(f, " {}", self.typical_p)?,
                Sampler::TopP => write!(f, " {}", self.top_p)?,
                Sampler::MinP => write!(f, " {}", self.min_p)?,
                Sampler::Xtc => write!(f, " (probability {}, threshold {})", self.xtc_probability, self.xtc_threshold)?,
                Sampler::Temperature if self.dynatemp_range > 0.0 && self.mirostat == 0 => {
                    let (t, r, e) = (self.temperature, self.dynatemp_range, self.dynatemp_exponent);
                    write!(f, " {t} (range {r}, exponent {e})")?
                }
                Sampler::Temperature | Sampler::AdaptiveP => write!(f, " {}", self.temperature)?,
            }
            write!(f, " -> ")?;
        }
        match self.mirostat {
            0 if self.is_adaptive() => {
                write!(f, "adaptive_p (target {}, decay {})", self.adaptive_target, self.adaptive_decay)?
            }
            0 => write!(f, "draw")?,
            v => write!(f, "mirostat {v} (tau {}, eta {})", self.mirostat_tau, self.mirostat_eta)?,
        }
        write!(f, ", on the {}", if self.device(0).is_some() { "device" } else { "host" })
    }
}

/// Samplers and what they remember of one reply.
#[derive(Clone, Debug)]
pub struct Chain {
    sampling: Sampling,
    stages: Vec<Sampler>,
    seed: u64,
    bias: Vec<(u32, f32)>,
    /// The prompt, then the reply.
    tokens: Vec<u32>,
    /// Mirostat's bound on surprise, in bits.
    mu: f64,
    /// Adaptive-p's decayed sum of probabilities, and of their weights.
    drawn: (f64, f64),
}

impl Chain {
    /// Samplers for the reply to a prompt; `bias` is added to the logits of some tokens.
    pub fn new(sampling: Sampling, seed: u64, bias: Vec<(u32, f32)>, prompt: Vec<u32>) -> Result<Chain, SamplingError> {
        sampling.check()?;
        let kept = 1.0 / (1.0 - f64::from(sampling.adaptive_decay));
        Ok(Chain {
            stages: sampling.stages(),
            mu: 2.0 * f64::from(sampling.mirostat_tau),
            drawn: (f64::from(sampling.adaptive_target) * kept, kept),
            sampling,
            seed,
            bias,
            tokens: prompt,
        })
    }

    /// Draws the next token of the reply from the logits of the whole vocabulary, and takes it as said.
    ///
    /// A NaN is never drawn, and positive infinity counts as the largest finite number. If nothing can be drawn, it is
    /// the lowest id, as on a device.
    pub fn draw(&mut self, logits: &[f32]) -> u32 {
        let mut candidates = self.candidates(logits);
        let id = match candidates.iter().any(|c| c.logit > f32::NEG_INFINITY) {
            true => self.pick(&mut candidates, logits.len()),
            false => candidates.first().map_or(0, |c| c.id),
        };
        self.tokens.push(id);
        id
    }

    /// What is left of the vocabulary before the draw.
    fn candidates(&self, logits: &[f32]) -> Vec<Candidate> {
        let all = logits.iter().zip(0..).map(|(&logit, id)| Candidate { id, logit });
        let mut all: Vec<Candidate> = all.collect();
        for &(id, bias) in &self.bias {
            if let Some(c) = all.get_mut(id as usize) {
                c.logit += bias;
            }
        }
        all.retain(|c| !c.logit.is_nan());
        all.iter_mut().for_each(|c| c.logit = c.logit.min(f32::MAX));
        if all.iter().any(|c| c.logit > f32::NEG_INFINITY) {
            self.stages.iter().for_each(|&stage| self.apply(stage, &mut all));
        }
        all
    }

    fn apply(&self, stage: Sampler, candidates: &mut Vec<Candidate>) {
        let s = &self.sampling;
        let recent = |n: i32| {
            let n = if n < 0 { self.tokens.len() } else { self.tokens.len().min(n as usize) };
            &self.tokens[self.tokens.len() - n..]
        };
        match stage {
            Sampler::Penalties => {
                let mut counts = HashMap::new();
                recent(s.penalty_last_n).iter().for_each(|&id| *counts.entry(id).or_insert(0u32) += 1);
                filter::penalise(candidates, &counts, s);
            }
            Sampler::Dry => dry::penalise(candidates, recent(s.dry_last_n), s),
            Sampler::TopNSigma => filter::top_n_sigma(candidates, s.top_n_sigma),
            Sampler::TopK => filter::top_k(candidates, s.top_k as usize),
            Sampler::Typical => filter::typical(candidates, s.typical_p, s.min_keep),
            Sampler::TopP => filter::top_p(candidates, s.top_p, s.min_keep),
            Sampler::MinP => filter::min_p(candidates, s.min_p, s.min_keep),
            Sampler::Xtc => {
                let word = philox([0, self.position(), 1, 0], [self.seed as u32, (self.seed >> 32) as u32])[0];
                let u = ((word >> 9) as f32 + 0.5) / 8_388_608.0;
                if u <= s.xtc_probability {
                    filter::xtc(candidates, s.xtc_threshold, s.min_keep);
                }
            }
            Sampler::Temperature if s.dynatemp_range > 0.0 && s.mirostat == 0 => {
                filter::dynamic_temperature(candidates, s.temperature, s.dynatemp_range, s.dynatemp_exponent)
            }
            Sampler::Temperature => filter::temperature(candidates, s.temperature),
            Sampler::AdaptiveP => {}
        }
    }

    fn position(&self) -> u32 {
        self.tokens.len() as u32
    }

    /// The draw itself, from at least one candidate.
    fn pick(&mut self, candidates: &mut Vec<Candidate>, n_vocab: usize) -> u32 {
        let (seed, position) = (self.seed, self.position());
        let Sampling { mirostat, mirostat_tau, mirostat_eta, adaptive_target, adaptive_decay, .. } = self.sampling;
        if mirostat > 0 {
            match mirostat {
                1 => mirostat::cut_1(candidates, self.mu, n_vocab),
                _ => mirostat::cut_2(candidates, self.mu),
            }
            let i = filter::draw(candidates, seed, position);
            let surprise = -filter::softmax(candidates)[i].log2();
            self.mu -= f64::from(mirostat_eta) * (surprise - f64::from(mirostat_tau));
            return candidates[i].id;
        }
        if !self.sampling.is_adaptive() {
            return candidates[filter::draw(candidates, seed, position)].id;
        }
        let p = filter::softmax(candidates);
        let aim = (2.0 * f64::from(adaptive_target) - self.drawn.0 / self.drawn.1).clamp(0.0, 1.0);
        for (c, p) in candidates.iter_mut().zip(&p).filter(|(c, _)| c.logit > f32::NEG_INFINITY) {
            let x = (p - aim).abs() / 0.3;
            c.logit = (5.0 - 10.0 * x * x / (1.0 + x)) as f32;
        }
        let i = filter::draw(candidates, seed, position);
        let decay = f64::from(adaptive_decay);
        self.drawn = (p[i] + decay * self.drawn.0, 1.0 + decay * self.drawn.1);
        candidates[i].id
    }
}

#[cfg(test)]
mod tests;
