// Softmax attention over pages of 64 tokens. Two variants: APPEND stores k and v of each row in its page; the
// other reads. Exactness: a workgroup a (head, row); keys in position order, page by page at absolute multiples of
// 64, with a running maximum; each dot product and each value channel is one thread's, in one order.
#import step
#if APPEND
#import store_blocks

// Blocks are not whole words: two threads may write halves of one.
#if K_BLOCKS
@group(0) @binding(1) var<storage, read_write> k_pages: array<atomic<u32>>;

fn put_k(half: u32, bits: u32) {
    let shift = half % 2u * 16u;
    atomicAnd(&k_pages[half / 2u], ~(0xffffu << shift));
    atomicOr(&k_pages[half / 2u], bits << shift);
}
#else
@group(0) @binding(1) var<storage, read_write> k_pages: array<u32>;
#endif
#if V_BLOCKS
@group(0) @binding(2) var<storage, read_write> v_pages: array<atomic<u32>>;

fn put_v(half: u32, bits: u32) {
    let shift = half % 2u * 16u;
    atomicAnd(&v_pages[half / 2u], ~(0xffffu << shift));
    atomicOr(&v_pages[half / 2u], bits << shift);
}
#else
@group(0) @binding(2) var<storage, read_write> v_pages: array<u32>;
#endif

// Number i of a row goes to its place of the page; halves are stored in pairs by the thread of the first, blocks of 32
// by one thread.
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
#if K_BLOCKS
    if i < K_ROW / 32u {
        let at = (token * (K_ROW / 32u) + i) * K_HALVES;
#if K_Q8_0
        var block = store_q8_0(p.k + r * p.k_stride + 32u * i);
#else
        var block = store_q4_0(p.k + r * p.k_stride + 32u * i);
#endif
        for (var h = 0u; h < K_HALVES; h++) { put_k(at + h, block[h]); }
    }
#else
    if i < K_ROW { k_pages[token * K_ROW + i] = bitcast<u32>(act[p.k + r * p.k_stride + i]); }
#endif
#endif
#if V_F16
    if i < V_ROW / 2u {
        let x = p.v + r * p.v_stride + 2u * i;
        v_pages[token * (V_ROW / 2u) + i] = pack2x16float(vec2<f32>(act[x], act[x + 1u]));
    }
#else
#if V_BLOCKS
    if i < V_ROW / 32u {
        let at = (token * (V_ROW / 32u) + i) * V_HALVES;
#if V_Q8_0
        var block = store_q8_0(p.v + r * p.v_stride + 32u * i);
#else
        var block = store_q4_0(p.v + r * p.v_stride + 32u * i);
#endif
        for (var h = 0u; h < V_HALVES; h++) { put_v(at + h, block[h]); }
    }
#else
    if i < V_ROW { v_pages[token * V_ROW + i] = bitcast<u32>(act[p.v + r * p.v_stride + i]); }
#endif
#endif
}
#else
@group(0) @binding(1) var<storage, read> k_pages: array<u32>;
@group(0) @binding(2) var<storage, read> v_pages: array<u32>;
#if SINKS
@group(0) @binding(3) var<storage, read> sinks: array<f32>;
#endif

#if K_BLOCKS
fn key_scale(block: u32) -> f32 {
    let half = block * K_HALVES;
    return unpack2x16float(k_pages[half / 2u])[half % 2u];
}

// Number i of a block, without its scale.
fn key_code(block: u32, i: u32) -> f32 {
#if K_Q8_0
    let byte = block * 34u + 2u + i;
    return f32(bitcast<i32>(k_pages[byte / 4u] << (24u - byte % 4u * 8u)) >> 24u);
#else
    let byte = block * 18u + 2u + i % 16u;
    return f32(k_pages[byte / 4u] >> (byte % 4u * 8u + i / 16u * 4u) & 15u) - 8.0;
#endif
}
#endif

fn key(at: u32) -> f32 {
#if K_F16
    return unpack2x16float(k_pages[at / 2u])[at % 2u];
#else
#if K_BLOCKS
    return key_scale(at / 32u) * key_code(at / 32u, at % 32u);
#else
    return bitcast<f32>(k_pages[at]);
#endif
#endif
}

#if V_BLOCKS
fn value_scale(block: u32) -> f32 {
    let half = block * V_HALVES;
    return unpack2x16float(v_pages[half / 2u])[half % 2u];
}

// Number i of a block, without its scale.
fn value_code(block: u32, i: u32) -> f32 {
#if V_Q8_0
    let byte = block * 34u + 2u + i;
    return f32(bitcast<i32>(v_pages[byte / 4u] << (24u - byte % 4u * 8u)) >> 24u);
#else
    let byte = block * 18u + 2u + i % 16u;
    return f32(v_pages[byte / 4u] >> (byte % 4u * 8u + i / 16u * 4u) & 15u) - 8.0;
#endif
}
#endif

fn value(at: u32) -> f32 {
#if V_F16
    return unpack2x16float(v_pages[at / 2u])[at % 2u];
#else
#if V_BLOCKS
    return value_scale(at / 32u) * value_code(at / 32u, at % 32u);
#else
    return bitcast<f32>(v_pages[at]);
#endif
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

    var scale = p.scale;
#if GROWS
    scale *= 1.0 + p.growth * log(1.0 + f32(last / p.context));
#endif
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
                z = sum * scale;
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
            let v = (page + j) * V_ROW + kv * V_HEAD;
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
