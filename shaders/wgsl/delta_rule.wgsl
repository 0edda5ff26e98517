// S <- exp(g) S;  d = beta (v - S^T k);  S <- S + k d^T;  y = scale S^T q
// Sequential, so that every cut is exact: LANES threads a column i_v of a head's state, which they keep over the whole
// span; each sums its own i_k, then all add the lanes' sums in order. Grid (heads x blocks of columns, spans).
// State [head, i_v, i_k].
#import step
@group(0) @binding(1) var<storage, read_write> state: array<f32>;

const COLUMNS: u32 = WG / LANES;
const BLOCKS: u32 = (D_V + COLUMNS - 1u) / COLUMNS;
const PER_LANE: u32 = (D_K + LANES - 1u) / LANES;

var<workgroup> sh_predicted: array<f32, WG>;
var<workgroup> sh_read: array<f32, WG>;

fn key_head(head: u32) -> u32 {
#if TILED
    return head % N_HEAD_K;
#else
    return head / (N_HEAD_V / N_HEAD_K);
#endif
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let head = group.x / BLOCKS;
    let i_v = group.x % BLOCKS * COLUMNS + local / LANES;
    let lane = local % LANES;
    let first = local - lane;
    let inside = i_v < D_V;
    let span = p.spans + group.y * p.span_words;
    let keys = key_head(head) * D_K;
    let column = head * D_V + i_v;
    let at = column * D_K;
    var s: array<f32, PER_LANE>;
    for (var j = 0u; j < PER_LANE; j++) {
        let i_k = j * LANES + lane;
        s[j] = 0.0;
        if inside && i_k < D_K { s[j] = state[span_from(span) * STATE + at + i_k]; }
    }
    var next = 0u;
    for (var t = 0u; t < span_rows(span); t++) {
        let r = span_first_row(span) + t;
        let q = p.q + r * p.q_stride + keys;
        let k = p.k + r * p.k_stride + keys;
        let beta = act[p.beta + r * p.beta_stride + head];
        var value = 0.0;
        if inside { value = act[p.v + r * p.v_stride + column]; }
        var k_own: array<f32, PER_LANE>;
        var q_own: array<f32, PER_LANE>;
        for (var j = 0u; j < PER_LANE; j++) {
            let i_k = j * LANES + lane;
            k_own[j] = 0.0;
            q_own[j] = 0.0;
            if i_k < D_K { k_own[j] = act[k + i_k]; q_own[j] = act[q + i_k]; }
        }
#if CHANNEL_DECAY
        let g = p.g + r * p.g_stride + head * D_K;
#else
        let decay = exp(act[p.g + r * p.g_stride + head]);
#endif
        var part = 0.0;
        for (var j = 0u; j < PER_LANE; j++) {
#if CHANNEL_DECAY
            var decay = 0.0;
            if j * LANES + lane < D_K { decay = exp(act[g + j * LANES + lane]); }
#endif
            s[j] = s[j] * decay;
            part = fma(s[j], k_own[j], part);
        }
        sh_predicted[local] = part;
        workgroupBarrier();
        var predicted = 0.0;
        for (var l = 0u; l < LANES; l++) { predicted = predicted + sh_predicted[first + l]; }
        let delta = beta * (value - predicted);
        part = 0.0;
        for (var j = 0u; j < PER_LANE; j++) {
            s[j] = fma(k_own[j], delta, s[j]);
            part = fma(s[j], q_own[j], part);
        }
        sh_read[local] = part;
        workgroupBarrier();
        if inside && lane == 0u {
            var read = 0.0;
            for (var l = 0u; l < LANES; l++) { read = read + sh_read[first + l]; }
            act[p.y + r * p.y_stride + column] = read * p.scale;
        }
        if next < span_snapshots(span) && snapshot_after(span, next) == t + 1u {
            let slot = snapshot_slot(span, next) * STATE + at;
            for (var j = 0u; j < PER_LANE; j++) {
                let i_k = j * LANES + lane;
                if inside && i_k < D_K { state[slot + i_k] = s[j]; }
            }
            next++;
        }
    }
    for (var j = 0u; j < PER_LANE; j++) {
        let i_k = j * LANES + lane;
        if inside && i_k < D_K { state[span_to(span) * STATE + at + i_k] = s[j]; }
    }
}
