// Softmax attention over pages of 64 tokens. Two variants: APPEND stores k and v of each row in its page; the
// other reads. Exactness: a workgroup a (head, row); keys in position order, page by page at absolute multiples of
// 64, with a running maximum; each dot product and each value channel is one thread's, in one order.
#import step
#if APPEND
@group(0) @binding(1) var<storage, read_write> k_pages: array<u32>;
@group(0) @binding(2) var<storage, read_write> v_pages: array<u32>;

// Number i of a row goes to place `at` of its page; halves are stored in pairs by the thread of the first.
@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let r = id.y;
    let position = row_position(r);
    let page = span_page(row_span(r), GROUP, position);
    let token = page * 64u + position % 64u;
    let i = id.x;
#if K_F16
    if i < K_ROW / 2u {
        let x = p.k + r * p.k_stride + 2u * i;
        k_pages[token * (K_ROW / 2u) + i] = pack2x16float(vec2<f32>(act[x], act[x + 1u]));
    }
#else
    if i < K_ROW { k_pages[token * K_ROW + i] = bitcast<u32>(act[p.k + r * p.k_stride + i]); }
#endif
#if V_F16
    if i < V_ROW / 2u {
        let x = p.v + r * p.v_stride + 2u * i;
        v_pages[token * (V_ROW / 2u) + i] = pack2x16float(vec2<f32>(act[x], act[x + 1u]));
    }
#else
    if i < V_ROW { v_pages[token * V_ROW + i] = bitcast<u32>(act[p.v + r * p.v_stride + i]); }
#endif
}
#else
@group(0) @binding(1) var<storage, read> k_pages: array<u32>;
@group(0) @binding(2) var<storage, read> v_pages: array<u32>;
#if SINKS
@group(0) @binding(3) var<storage, read> sinks: array<f32>;
#endif

fn key(at: u32) -> f32 {
#if K_F16
    return unpack2x16float(k_pages[at / 2u])[at % 2u];
#else
    return bitcast<f32>(k_pages[at]);
#endif
}

fn value(at: u32) -> f32 {
#if V_F16
    return unpack2x16float(v_pages[at / 2u])[at % 2u];
#else
    return bitcast<f32>(v_pages[at]);
#endif
}

const LOWEST: f32 = -3.0e38;
// Value channels of a thread.
const CHANNELS: u32 = (D_V + WG - 1u) / WG;

var<workgroup> sh_score: array<f32, 64>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let head = group.x;
    let r = group.y;
    let span = row_span(r);
    let last = row_position(r);
    var first = 0u;
    if WINDOW > 0u && last + 1u > WINDOW { first = last + 1u - WINDOW; }
    let kv = head / (N_HEAD / N_KV);
    let q = p.q + r * p.q_stride + head * D_K;

    var peak = LOWEST;
    var total = 0.0;
#if SINKS
    peak = sinks[head];
    total = 1.0;
#endif
    var y: array<f32, CHANNELS>;
    for (var block = first / 64u; block <= last / 64u; block++) {
        let page = span_page(span, GROUP, block * 64u) * 64u;
        let lo = max(first, block * 64u) - block * 64u;
        let hi = min(last - block * 64u, 63u);
        for (var j = lane; j < 64u; j += WG) {
            var z = LOWEST;
            if j >= lo && j <= hi {
                let k = (page + j) * K_ROW + kv * D_K;
                var sum = 0.0;
                for (var i = 0u; i < D_K; i++) { sum = fma(act[q + i], key(k + i), sum); }
                z = sum * p.scale;
#if SOFT_CAP
                z = p.cap * tanh(z / p.cap);
#endif
            }
            sh_score[j] = z;
        }
        // Orders the scores before anyone reads them.
        workgroupBarrier();
        var high = peak;
        for (var j = lo; j <= hi; j++) { high = max(high, sh_score[j]); }
        let shrink = exp(peak - high);
        total *= shrink;
        for (var c = 0u; c < CHANNELS; c++) { y[c] *= shrink; }
        peak = high;
        for (var j = lo; j <= hi; j++) {
            let weight = exp(sh_score[j] - peak);
            total += weight;
            let v = (page + j) * V_ROW + kv * D_V;
            for (var c = 0u; c < CHANNELS; c++) {
                let channel = lane + c * WG;
                if channel < D_V { y[c] = fma(weight, value(v + channel), y[c]); }
            }
        }
        // Keeps the next page's scores from overwriting what a slow thread still reads.
        workgroupBarrier();
    }
    for (var c = 0u; c < CHANNELS; c++) {
        let channel = lane + c * WG;
        if channel < D_V { act[p.y + r * p.y_stride + head * D_V + channel] = y[c] / total; }
    }
}
#endif
