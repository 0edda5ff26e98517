//! Flags that say how tokens are drawn: llama.cpp's, with its names and defaults.

use anyhow::Context as _;
use clap::Args;
use segno::{GenerateOptions, Model, Sampler};

/// Every flag is optional: what isn't given is what the model's author recommends in the file, or the default.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Temperature; 0 takes the likeliest token [default: 0.8]
    #[arg(long, alias = "temperature", value_name = "T", allow_negative_numbers = true)]
    temp: Option<f32>,
    /// Keep the K likeliest tokens; 0: all [default: 40]
    #[arg(long, value_name = "K")]
    top_k: Option<u32>,
    /// Keep the likeliest tokens up to this share; 1: all [default: 0.95]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Keep tokens of at least this share of the likeliest's probability; 0: all [default: 0.05]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Seed of the draws [default: another one each time]
    #[arg(short, long, value_name = "N")]
    seed: Option<u64>,
    /// Samplers in their order, separated by ';' [default:
    /// penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature]
    #[arg(long, value_name = "NAMES", conflicts_with = "sampler_seq")]
    samplers: Option<String>,
    /// The same as letters [default: edskypmxt; a: adaptive_p]
    #[arg(long, alias = "sampling-seq", value_name = "LETTERS")]
    sampler_seq: Option<String>,
    /// Tokens that the penalties look back; 0: off, -1: all [default: 64]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    repeat_last_n: Option<i32>,
    /// Divide the logits of tokens that occurred by this; 1: off [default: 1]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    repeat_penalty: Option<f32>,
    /// Take this off the logits of tokens that occurred [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    presence_penalty: Option<f32>,
    /// Take this off for each time that a token occurred [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,
    /// DRY, against repeated passages: strength; 0: off [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    dry_multiplier: Option<f32>,
    /// DRY: growth of the penalty with the passage's length [default: 1.75]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    dry_base: Option<f32>,
    /// DRY: passages up to this many tokens are free [default: 2]
    #[arg(long, value_name = "N")]
    dry_allowed_length: Option<usize>,
    /// DRY: tokens that it looks back; 0: off, -1: all [default: 64]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    dry_penalty_last_n: Option<i32>,
    /// DRY: text at which passages end; may be given more than once; none: nothing [default: line break : " *]
    #[arg(long, value_name = "TEXT")]
    dry_sequence_breaker: Vec<String>,
    /// Keep logits within this many standard deviations of the largest; -1: all [default: -1]
    #[arg(long, alias = "top-n-sigma", value_name = "N", allow_negative_numbers = true)]
    top_nsigma: Option<f32>,
    /// Locally typical sampling: keep up to this share; 1: all [default: 1]
    #[arg(long, alias = "typical-p", value_name = "P", allow_negative_numbers = true)]
    typical: Option<f32>,
    /// XTC, which drops the likeliest tokens now and then: how often; 0: never [default: 0]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    xtc_probability: Option<f32>,
    /// XTC: what is likely enough to be dropped; above 0.5: nothing [default: 0.1]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    xtc_threshold: Option<f32>,
    /// Dynamic temperature: up and down from --temp by this; 0: fixed [default: 0]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    dynatemp_range: Option<f32>,
    /// Dynamic temperature: exponent of the entropy [default: 1]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    dynatemp_exp: Option<f32>,
    /// Mirostat 1 or 2, which holds the surprise level; only it and the temperature run; 0: off [default: 0]
    #[arg(long, value_name = "N")]
    mirostat: Option<u8>,
    /// Mirostat: learning rate [default: 0.1]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    mirostat_lr: Option<f32>,
    /// Mirostat: target surprise in bits [default: 5]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    mirostat_ent: Option<f32>,
    /// Adaptive-p, if it is among the samplers: target probability; negative: off [default: -1]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    adaptive_target: Option<f32>,
    /// Adaptive-p: how much of its past it keeps, up to 0.99 [default: 0.9]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    adaptive_decay: Option<f32>,
    /// Add to the logit of a token: 42+1.5 or 42-inf; may be given more than once
    #[arg(short = 'l', long, value_name = "ID+X")]
    logit_bias: Vec<String>,
    /// Never end the reply by the model's wish
    #[arg(long)]
    ignore_eos: bool,
}

/// `42+1.5` or `42-inf`.
fn bias(text: &str, n_vocab: usize) -> anyhow::Result<(u32, f32)> {
    let wrong = || format!("--logit-bias is '{text}', expected a token, + or -, and a number, such as 42-1.5");
    let at = text.find(['+', '-']).with_context(wrong)?;
    let (id, x) = (text[..at].parse::<u32>(), text[at..].parse::<f32>());
    let (id, x) = (id.ok().with_context(wrong)?, x.ok().filter(|x| !x.is_nan()).with_context(wrong)?);
    anyhow::ensure!((id as usize) < n_vocab, "--logit-bias names token {id}, the vocabulary has {n_vocab}");
    Ok((id, x))
}

impl SamplingArgs {
    pub fn options(&self, model: &Model, max_tokens: Option<usize>) -> anyhow::Result<GenerateOptions> {
        let mut s = model.sampling();
        fn given<T: Copy>(to: &mut T, flag: Option<T>) {
            *to = flag.unwrap_or(*to);
        }
        given(&mut s.temperature, self.temp);
        given(&mut s.top_k, self.top_k);
        given(&mut s.top_p, self.top_p);
        given(&mut s.min_p, self.min_p);
        given(&mut s.typical_p, self.typical);
        given(&mut s.top_n_sigma, self.top_nsigma);
        given(&mut s.xtc_probability, self.xtc_probability);
        given(&mut s.xtc_threshold, self.xtc_threshold);
        given(&mut s.penalty_last_n, self.repeat_last_n);
        given(&mut s.penalty_repeat, self.repeat_penalty);
        given(&mut s.penalty_presence, self.presence_penalty);
        given(&mut s.penalty_frequency, self.frequency_penalty);
        given(&mut s.dry_multiplier, self.dry_multiplier);
        given(&mut s.dry_base, self.dry_base);
        given(&mut s.dry_allowed_length, self.dry_allowed_length);
        given(&mut s.dry_last_n, self.dry_penalty_last_n);
        given(&mut s.dynatemp_range, self.dynatemp_range);
        given(&mut s.dynatemp_exponent, self.dynatemp_exp);
        given(&mut s.mirostat, self.mirostat);
        given(&mut s.mirostat_eta, self.mirostat_lr);
        given(&mut s.mirostat_tau, self.mirostat_ent);
        given(&mut s.adaptive_target, self.adaptive_target);
        given(&mut s.adaptive_decay, self.adaptive_decay);
        let flag = |error| anyhow::anyhow!("--{error}");
        if let Some(names) = &self.samplers {
            let order = names.split(';').filter(|name| !name.is_empty()).map(|name| name.trim().parse());
            s.order = order.collect::<Result<_, _>>().map_err(flag)?;
        }
        if let Some(letters) = &self.sampler_seq {
            s.order = letters.chars().map(Sampler::from_letter).collect::<Result<_, _>>().map_err(flag)?;
        }
        s.check().map_err(flag)?;
        let mut options = GenerateOptions {
            sampling: s,
            seed: self.seed,
            max_tokens,
            ignore_eos: self.ignore_eos,
            ..Default::default()
        };
        if !self.dry_sequence_breaker.is_empty() {
            let given = self.dry_sequence_breaker.iter().filter(|text| *text != "none");
            options.dry_breakers = given.map(|text| text.replace("\\n", "\n").replace("\\t", "\t")).collect();
        }
        let n_vocab = model.tokenizer().n_vocab();
        options.bias = self.logit_bias.iter().map(|text| bias(text, n_vocab)).collect::<Result<_, _>>()?;
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn biases_are_read_as_llama_cpp_writes_them() {
        assert_eq!(bias("42+1.5", 100).unwrap(), (42, 1.5));
        assert_eq!(bias("7-inf", 100).unwrap(), (7, f32::NEG_INFINITY));
        for wrong in ["", "42", "x+1", "42+x", "42+nan", "100+1", "-1"] {
            assert!(bias(wrong, 100).is_err(), "{wrong}");
        }
    }
}
