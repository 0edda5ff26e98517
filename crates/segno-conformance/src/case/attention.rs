//! Cases of `attention`: page and window borders, rings, head ratios and sizes, sinks, caps, types of pages,
//! shared keys and values, values that are part of the keys, scales that grow.
//!
//! Bound, for a query over keys `j` with weights `p_j`:
//!
//! - A score `z_j = scale q.k_j` is off by `|scale| (sum(d_k) + 2 U) sum |q k|`; the cap's slope is at
//!   most 1 and adds `cap` [`tanh_abs`].
//!   A scale that grows by `growth ln(1 + n)` is off by `growth` times the logarithm's 2^-21 or 3 ulp, and 3 roundings.
//! - A numerator `exp(z_j - m)` is off relatively by the score's error, the difference's rounding
//!   `U |z_j - m|` and [`exp_rel`]; an online form rescales at every new maximum `m_i`, another
//!   exponential of `m_i - m_(i+1)`: the lengths add up to at most `|z_j - m|` and the rest to 4 ulp a
//!   maximum ([`rescalings`]). Call the sum `r_j`; the maximum's own error falls out of the quotient.
//! - With `R_j = e^(r_j) - 1` the result `sum p_j v_j` is off by
//!   `sum p_j |v_j| (R_j + sum(n)) + |y| (sum p_j R_j + sum(n) + 3 ulp)`, the second part the denominator's and
//!   the quotient's, over `1 - sum p_j R_j`; in any case by no more than `max |v_j| + |y|`.
//!
//! Stated, in addition: keys and values in pages may be off by what [`page_rounding`] says, which adds
//! `|scale| sum |q| dk_j` to a score's error and `sum p_j dv_j` to the result's.

use segno_ir::op::Attention;
use segno_ir::op::attention::Temperature;
use segno_ir::reference::RefState;
use segno_ir::{Builder, KvType, PAGE_TOKENS, StateDecl, StateId, WeightId};

use super::build::optional;
use super::{Batch, Cases, Comparison, Errors, Setup, Trial, kv_name};
use crate::bound::{TINY, U, ULP, exp_rel, page_rounding, sum, tanh_abs};

const F32: (KvType, KvType) = (KvType::F32, KvType::F32);

#[derive(Clone, Copy)]
struct Sizes {
    heads: usize,
    heads_kv: usize,
    d_k: usize,
    d_v: usize,
    window: Option<u32>,
    soft_cap: Option<f32>,
    temperature: Option<Temperature>,
    v_in_k: bool,
    sinks: bool,
    /// Factor on the queries: large ones make one key take all the weight.
    peak: f32,
    /// Factor on keys and values.
    values: f32,
    copies: usize,
    /// The second op reads the first one's keys and values.
    shared: bool,
    kv: (KvType, KvType),
    batch: &'static str,
}

const PLAIN: Sizes = Sizes {
    heads: 4,
    heads_kv: 2,
    d_k: 64,
    d_v: 64,
    window: None,
    soft_cap: None,
    temperature: None,
    v_in_k: false,
    sinks: false,
    peak: 1.0,
    values: 1.0,
    copies: 1,
    shared: false,
    kv: F32,
    batch: "p65+d1@64",
};

/// Most new maxima that a form meets which adds up pages of keys, from any page on, and then such sums in turn; `first`
/// is the position of the first score.
fn rescalings(z: &[f64], first: usize) -> f64 {
    let page = PAGE_TOKENS as usize;
    let starts = std::iter::once(0).chain((page - first % page..z.len()).step_by(page));
    let new_from = |start: usize| {
        let mut high = f64::NEG_INFINITY;
        let mut new = 0;
        for &score in &z[start..] {
            new += usize::from(score > high);
            high = high.max(score);
        }
        new
    };
    let (mut pages, mut most) = (0, 0);
    for start in starts {
        pages += 1;
        most = most.max(new_from(start));
    }
    (most + pages) as f64
}

fn errors(trial: &Trial<'_>, comparison: Comparison, sizes: &Sizes, scale_at: impl Fn(u32) -> f64) -> Errors {
    let Sizes { heads, heads_kv, d_k, d_v, window, soft_cap, kv, .. } = *sizes;
    let Some(RefState::KeyValue { k, v }) = trial.state else { return Errors::default() };
    let (mut k, mut v) = (k.clone(), v.clone());
    if let [_, new_k, new_v @ ..] = trial.inputs {
        k.extend_from_slice(new_k);
        v.extend(new_v.iter().flatten());
    }
    // The history was given as the pages hold it.
    let rounds = |values: &[f64], row: usize, ty: KvType| {
        let mut all = vec![0.0; values.len()];
        if comparison == Comparison::Stated {
            let from = (trial.start as usize * row).min(values.len());
            all[from..].copy_from_slice(&page_rounding(&values[from..], ty));
        }
        all
    };
    let (dk, mut dv) = (rounds(&k, heads_kv * d_k, kv.0), rounds(&v, heads_kv * d_v, kv.1));
    if sizes.v_in_k {
        let first = |keys: &[f64]| keys.chunks_exact(d_k).flat_map(|key| &key[..d_v]).copied().collect();
        (v, dv) = (first(&k), first(&dk));
    }
    let mut y = vec![0.0; trial.rows * heads * d_v];
    for r in 0..trial.rows {
        let last = trial.start as usize + r;
        let first = window.map_or(0, |w| (last + 1).saturating_sub(w as usize));
        let (n, scale) = (last + 1 - first, scale_at(last as u32));
        let of_scale = sizes.temperature.map_or(0.0, |t| {
            let log = f64::from(last as u32 / t.original_context).ln_1p();
            f64::from(t.growth) * (3.0 * ULP * log).max(1.0 / 2_097_152.0) + 3.0 * U
        });
        for h in 0..heads {
            let head_kv = h / (heads / heads_kv);
            let q = &trial.inputs[0][(r * heads + h) * d_k..][..d_k];
            let sink = match sizes.sinks {
                true => trial.weight(WeightId(0))[h],
                false => f64::NEG_INFINITY,
            };
            let (mut z, mut ez) = (Vec::with_capacity(n), Vec::with_capacity(n));
            for j in first..=last {
                let key = (j * heads_kv + head_kv) * d_k;
                let (mut dot, mut magnitude, mut rounded) = (0.0, 0.0, 0.0);
                for (q, (k, dk)) in q.iter().zip(k[key..].iter().zip(&dk[key..])) {
                    dot += q * k;
                    magnitude += (q * k).abs();
                    rounded += q.abs() * dk;
                }
                let mut score = dot * scale;
                let mut error = scale.abs() * ((sum(d_k) + 2.0 * U + of_scale) * magnitude + rounded);
                if let Some(cap) = soft_cap.map(f64::from) {
                    let x = score / cap;
                    // The quotient is rounded before the tangent, whose slope is 1 - tanh^2.
                    let slope = 1.0 - x.tanh().powi(2);
                    error += cap * (tanh_abs(x) + slope * x.abs() * 2.5 * ULP + U);
                    score = cap * x.tanh();
                }
                z.push(score);
                ez.push(error);
            }
            let max = z.iter().copied().fold(sink, f64::max);
            let maxima = rescalings(&z, first);
            let weight = |z: f64| (z - max).exp();
            let total = z.iter().map(|&z| weight(z)).sum::<f64>() + weight(sink);
            let relative = |z: f64, error: f64| {
                let d = z - max;
                (error + U * d.abs() + 2.0 * exp_rel(d) + 4.0 * ULP * maxima).exp_m1()
            };
            let mut numerators: f64 = z.iter().zip(&ez).map(|(&z, &e)| weight(z) / total * relative(z, e)).sum();
            if sink.is_finite() {
                numerators += weight(sink) / total * relative(sink, 0.0);
            }
            let denominator = numerators + sum(n) + 3.0 * ULP;
            for i in 0..d_v {
                let (mut result, mut error, mut stored, mut largest) = (0.0, 0.0, 0.0, 0f64);
                for (j, (&z, &e)) in (first..=last).zip(z.iter().zip(&ez)) {
                    let at = (j * heads_kv + head_kv) * d_v + i;
                    let (value, p) = (v[at], weight(z) / total);
                    result += p * value;
                    error += p * (value.abs() * (relative(z, e) + sum(n)) + dv[at]) + TINY * value.abs();
                    stored = dv[at].max(stored);
                    largest = value.abs().max(largest);
                }
                error = (error + result.abs() * denominator) / (1.0 - numerators).max(0.0);
                y[(r * heads + h) * d_v + i] = error.min(largest + stored + result.abs()) + TINY;
            }
        }
    }
    Errors { y, states: Vec::new() }
}

fn add(out: &mut Cases, sizes: Sizes) {
    let Sizes { heads, heads_kv, d_k, d_v, window, soft_cap, sinks, peak, values, copies, shared, kv, batch, .. } =
        sizes;
    let Sizes { temperature, v_in_k, .. } = sizes;
    let mut params = format!("heads={heads}/{heads_kv},d={d_k}/{d_v}");
    let mut word = |set: bool, text: String| {
        if set {
            params.push(',');
            params.push_str(&text);
        }
    };
    word(window.is_some(), format!("window={}", window.unwrap_or(0)));
    word(soft_cap.is_some(), format!("cap={}", soft_cap.unwrap_or(0.0)));
    word(
        temperature.is_some(),
        temperature.map_or(String::new(), |t| format!("grows={}/{}", t.growth, t.original_context)),
    );
    word(v_in_k, "v in k".into());
    word(sinks, "sinks".into());
    word(peak != 1.0, format!("peak={peak}"));
    word(values != 1.0, format!("values={values:e}"));
    word(copies > 1, format!("copies={copies}"));
    word(shared, "shared".into());
    word(true, format!("batch={batch}"));
    let scale = 1.0 / (d_k as f32).sqrt();
    out.add(kv_name(kv), params, move |rng| {
        let widths = [heads * d_k, heads_kv * d_k, heads_kv * d_v, heads * d_k];
        let widths = match (shared, v_in_k) {
            (true, _) => &widths[..],
            (_, true) => &widths[..2],
            _ => &widths[..3],
        };
        let mut setup = Setup::new(rng, widths, &Batch::parse(batch)).copies(copies).kv(kv);
        setup = setup.fill(move |rng, part, _, out| {
            let factor = if part == 0 || part == 3 { peak } else { values };
            out.iter_mut().for_each(|x| *x = rng.normal() * factor);
        });
        if sinks {
            setup.vector("sinks", &[heads], |rng, i| if i % 3 == 2 { 20.0 } else { rng.normal() });
        }
        let declare = move |b: &mut Builder<'_>, copy: usize| {
            let name = format!("kv.{copy}");
            let (n_head_kv, d_k, d_v) = (heads_kv as u32, d_k as u32, d_v as u32);
            let state = match shared && copy > 0 {
                true => StateId(0),
                false => b.state(StateDecl::KeyValue { name, n_head_kv, d_k, d_v, v_in_k, window }),
            };
            let sinks = optional(b, "sinks", &[heads])?;
            Ok(Attention { state, n_head: heads, scale, sinks, soft_cap, temperature }.into())
        };
        let own = if v_in_k { 0..2 } else { 0..3 };
        let takes = move |copy: usize| if shared && copy > 0 { 3..4 } else { own.clone() };
        let op = Attention { state: StateId(0), n_head: heads, scale, sinks: None, soft_cap, temperature };
        setup.finish_with_inputs(declare, takes, move |trial, comparison| {
            errors(trial, comparison, &sizes, |position| op.scale_at(position))
        })
    });
}

pub(super) fn cases(out: &mut Cases) {
    for kv in KvType::ALL.map(|ty| (ty, ty)) {
        let blocks = kv.0.block_len() > 1;
        // Page borders: 63, 64, 65 tokens before and in the span.
        for batch in [
            "p1+d1@1+p3",
            "p63+d1@63+d1@62",
            "p64+d1@64+p2@63",
            "p65?odd+d1@65+p7@61",
            "p3@126+d1@127+d1@128+d1@129",
            "d3@62+p66@62?odd+d1",
        ] {
            add(out, Sizes { kv, d_k: 32, d_v: 32, batch, ..PLAIN });
        }
        // Ratios and sizes of heads.
        let any = [(1, 1, 16, 16), (6, 2, 80, 80), (5, 1, 40, 40)];
        let whole = [(1, 1, 32, 32), (6, 2, 160, 160), (5, 1, 32, 64)];
        let common =
            [(2, 1, 64, 64), (8, 1, 128, 128), (3, 3, 96, 96), (2, 2, 256, 256), (4, 1, 192, 128), (2, 1, 64, 128)];
        for (heads, heads_kv, d_k, d_v) in if blocks { whole } else { any }.into_iter().chain(common) {
            add(out, Sizes { kv, heads, heads_kv, d_k, d_v, batch: "p5@60+d1@130+d1", ..PLAIN });
        }
        // Windows: shorter than a page, at its borders, longer; the ring has wrapped (table.first > 0).
        for (window, batch) in [
            (1, "p3+d1@70"),
            (3, "p65+d1@127+d1@128"),
            (63, "p70?odd+d1@200"),
            (64, "p66@62?odd+d1@191+d1@192"),
            (65, "d1@64+d1@65+d1@66+p4@126"),
            (100, "p65@250?odd+d1@1000+d1@99+d1@100"),
            (128, "p130?odd+d1@512"),
        ] {
            add(out, Sizes { kv, window: Some(window), d_k: 32, d_v: 32, batch, ..PLAIN });
        }
        // Long enough to be added up in parts, whose borders a window crosses.
        for (window, batch) in
            [(None, "p6@254+d1@512"), (None, "p5@510?odd+d1@700+d2@255"), (Some(300), "p6@764+d1@600")]
        {
            add(out, Sizes { kv, window, d_k: 32, d_v: 32, batch, ..PLAIN });
        }
        add(out, Sizes { kv, sinks: true, soft_cap: Some(20.0), peak: 10.0, batch: "d1@600+p6@508", ..PLAIN });
        add(out, Sizes { kv, soft_cap: Some(50.0), batch: "p9@60+d1@100", ..PLAIN });
        add(out, Sizes { kv, soft_cap: Some(2.0), peak: 10.0, batch: "p9@60+d1@100", ..PLAIN });
        add(out, Sizes { kv, sinks: true, batch: "p1+p9@60+d1@100", ..PLAIN });
        add(out, Sizes { kv, sinks: true, window: Some(20), soft_cap: Some(30.0), batch: "p9@60+d1@100+d1", ..PLAIN });
        add(out, Sizes { kv, peak: 100.0, batch: "p9@60+d1@300", ..PLAIN });
        add(out, Sizes { kv, peak: 1e-3, batch: "p9@60+d1@300", ..PLAIN });
        add(out, Sizes { kv, values: 1e3, batch: "p9@60+d1@65", ..PLAIN });
        add(out, Sizes { kv, values: 1e-4, batch: "p9@60+d1@65", ..PLAIN });
        add(out, Sizes { kv, copies: 3, batch: "p9@60+d1@65", ..PLAIN });
        add(out, Sizes { kv, copies: 2, window: Some(33), batch: "p9@60+d1@165", ..PLAIN });
        add(out, Sizes { kv, copies: 2, shared: true, batch: "p9@60+d1@65", ..PLAIN });
        // Latents: values are the first part of the keys.
        for (heads, heads_kv, d_k, d_v, batch) in [
            (4, 1, 96, 64, "p65?odd+d1@64+d1"),
            (2, 2, 64, 64, "p5@60+d1@130"),
            (6, 2, 160, 32, "p3@126+d1"),
            (8, 1, 576, 512, "p5@60+d1@65"),
        ] {
            add(out, Sizes { kv, v_in_k: true, heads, heads_kv, d_k, d_v, batch, ..PLAIN });
        }
        add(out, Sizes { kv, v_in_k: true, d_v: 32, copies: 2, window: Some(33), batch: "p9@60+d1@165", ..PLAIN });
        let temperature = Some(Temperature { growth: 0.1, original_context: 64 });
        add(out, Sizes { kv, temperature, batch: "p9@60+d1@63+d1@300", ..PLAIN });
        let d = if blocks { 32 } else { 16 };
        add(out, Sizes { kv, heads: 2, heads_kv: 1, d_k: d, d_v: d, batch: "p257?odd+d1@257", ..PLAIN });
    }
    for (k, v) in KvType::ALL.into_iter().flat_map(|k| KvType::ALL.map(|v| (k, v))).filter(|(k, v)| k != v) {
        let d_v = if v.block_len() > 1 { 96 } else { 48 };
        add(out, Sizes { kv: (k, v), copies: 2, d_k: 32, d_v, batch: "p9@60+d1@65+p3", ..PLAIN });
    }
}
