// y[t, c] = act(sum_j W[c, j] x[t - (K-1) + j, c] + b[c]); what lies before the span comes from its state.
// A thread a channel of a row: grid (channels, rows). The thread of a row after which a state is wanted writes it.
#import step
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read_write> state: array<f32>;
#if BIAS
@group(0) @binding(3) var<storage, read> bias: array<f32>;
#endif

const TAIL: u32 = KERNEL - 1u;

// Input t - TAIL of the span: from the state where that is before it.
fn before(span: u32, t: u32, c: u32) -> f32 {
    if t >= TAIL { return act[p.x + (span_first_row(span) + t - TAIL) * p.x_stride + c]; }
    return state[span_from(span) * STATE + c * TAIL + t];
}

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let c = id.x;
    let r = id.y;
    if c >= N { return; }
    let span = row_span(r);
    let t = row_index(r);
    var sum = 0.0;
#if BIAS
    sum = bias[c];
#endif
    for (var j = 0u; j < KERNEL; j++) { sum = fma(weight[c * KERNEL + j], before(span, t + j, c), sum); }
#if SILU
    sum = sum / (1.0 + exp(-sum));
#endif
    act[p.y + r * p.y_stride + c] = sum;
    if t + 1u == span_rows(span) {
        for (var j = 0u; j < TAIL; j++) { state[span_to(span) * STATE + c * TAIL + j] = before(span, t + 1u + j, c); }
    }
    for (var i = 0u; i < span_snapshots(span); i++) {
        if snapshot_after(span, i) == t + 1u {
            let slot = snapshot_slot(span, i);
            for (var j = 0u; j < TAIL; j++) { state[slot * STATE + c * TAIL + j] = before(span, t + 1u + j, c); }
        }
    }
}
