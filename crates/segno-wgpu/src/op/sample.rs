//! `sample`: draws tokens on the device.

use segno_ir::sample::SampleRow;

use crate::params::{Params, params};
use crate::shader::Variant;

params!(SampleParams { x: u32, x_stride: u32, y: u32, requests: u32, n: u32, chunk: u32, maxima: u32 });

/// Threads of the workgroup that draws a token, and of those that find the chunks' largest keys.
const WG: u32 = 256;
const MAXIMA_WG: u32 = 64;
/// Chunks of logits whose largest keys are found first.
pub(crate) const CHUNKS: u32 = 1024;
/// Workgroups of that for a request.
pub(crate) const MAXIMA_GROUPS: u32 = CHUNKS / MAXIMA_WG;

/// Words of a request.
pub(crate) const REQUEST: usize = 15;

/// The kernel that draws, or with `maxima` the one that goes before it.
pub(crate) fn variant(maxima: bool) -> Variant {
    let (flags, wg) = if maxima { (vec!["MAXIMA"], MAXIMA_WG) } else { (Vec::new(), WG) };
    let constants = vec![("WG", wg), ("CHUNKS", CHUNKS)];
    Variant { name: "sample", flags, constants, format: None, params: SampleParams::wgsl() }
}

/// The words of requests, then their lists; `base` is where the first word lies, `fed` the place in the tickets'
/// buffer of the done flag that each row was fed by.
pub(crate) fn encode(requests: &[SampleRow], base: usize, fed: impl Fn(u32) -> Option<u32>) -> Vec<u32> {
    let mut words = vec![0; requests.len() * REQUEST];
    for (i, request) in requests.iter().enumerate() {
        let p = &request.params;
        let biases = base + words.len();
        words.extend(request.bias.iter().flat_map(|(id, bias)| [*id, bias.to_bits()]));
        let stops = base + words.len();
        words.extend(&request.stop);
        let record = [
            request.row,
            p.temperature.to_bits(),
            p.top_k,
            p.top_p.to_bits(),
            p.min_p.max(0.0).ln().to_bits(),
            p.seed as u32,
            (p.seed >> 32) as u32,
            request.position,
            request.bias.len() as u32,
            biases as u32,
            request.stop.len() as u32,
            stops as u32,
            u32::from(p.temperature <= 0.0),
            u32::from(p.min_p <= 0.0),
            fed(request.row).unwrap_or(0),
        ];
        words[i * REQUEST..][..REQUEST].copy_from_slice(&record);
    }
    words
}

/// The parameter struct's text, for the translation tests.
#[cfg(test)]
pub(super) fn params() -> String {
    SampleParams::wgsl()
}
