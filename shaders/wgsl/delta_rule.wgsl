// S <- exp(g) S;  d = beta (v - S^T k);  S <- S + k d^T;  y = scale S^T q
// Sequential, so that every cut is exact: a thread a column i_v of a head's state, kept in its own array over the
// whole span; sums over i_k in order. Grid (columns, spans). State [head, i_v, i_k].
#import step
@group(0) @binding(1) var<storage, read_write> state: array<f32>;

fn key_head(head: u32) -> u32 {
#if TILED
    return head % N_HEAD_K;
#else
    return head / (N_HEAD_V / N_HEAD_K);
#endif
}

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let column = id.x;
    let span = id.y;
    if column >= N_HEAD_V * D_V { return; }
    let head = column / D_V;
    let keys = key_head(head) * D_K;
    let at = column * D_K;
    var s: array<f32, D_K>;
    for (var i_k = 0u; i_k < D_K; i_k++) { s[i_k] = state[span_from(span) * STATE + at + i_k]; }
    var next = 0u;
    for (var t = 0u; t < span_rows(span); t++) {
        let r = span_first_row(span) + t;
        let q = p.q + r * p.q_stride + keys;
        let k = p.k + r * p.k_stride + keys;
        let beta = act[p.beta + r * p.beta_stride + head];
        var predicted = 0.0;
#if CHANNEL_DECAY
        let g = p.g + r * p.g_stride + head * D_K;
#else
        let decay = exp(act[p.g + r * p.g_stride + head]);
#endif
        for (var i_k = 0u; i_k < D_K; i_k++) {
#if CHANNEL_DECAY
            let decay = exp(act[g + i_k]);
#endif
            let decayed = s[i_k] * decay;
            s[i_k] = decayed;
            predicted = fma(decayed, act[k + i_k], predicted);
        }
        let delta = beta * (act[p.v + r * p.v_stride + column] - predicted);
        var read = 0.0;
        for (var i_k = 0u; i_k < D_K; i_k++) {
            let corrected = fma(act[k + i_k], delta, s[i_k]);
            s[i_k] = corrected;
            read = fma(corrected, act[q + i_k], read);
        }
        act[p.y + r * p.y_stride + column] = read * p.scale;
        if next < span_snapshots(span) && snapshot_after(span, next) == t + 1u {
            let slot = snapshot_slot(span, next) * STATE + at;
            for (var i_k = 0u; i_k < D_K; i_k++) { state[slot + i_k] = s[i_k]; }
            next++;
        }
    }
    for (var i_k = 0u; i_k < D_K; i_k++) { state[span_to(span) * STATE + at + i_k] = s[i_k]; }
}
