// Softmax attention over pages of 64 tokens. Variants: APPEND stores k and v of each row in its page; the plain one
// reads, a workgroup a head of TILE rows: grid (heads, rows / TILE); for few rows SPLIT has a workgroup for each part of
// PART tokens as well: grid (heads, rows, parts), and where there is more than one leaves them to MERGE, a thread a
// value channel: grid (heads x CHANNELS, rows). Exactness: a part's keys in position order, page by page, with a running maximum of the part, then parts at absolute
// multiples of PART in order; each dot product, each sum of weights and each value channel is one thread's, in one order,
// whatever other rows share the workgroup.
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
    let page = span_page(row_span(r), p.group, position);
    let token = page * 64u + position % 64u;
    let i = id.x;
#if K_F16
    if i < p.k_row / 2u {
        let x = p.k + r * p.k_stride + 2u * i;
        k_pages[token * (p.k_row / 2u) + i] = pack2x16float(vec2<f32>(act[x], act[x + 1u]));
    }
#else
#if K_BLOCKS
    if i < p.k_row / 32u {
        let at = (token * (p.k_row / 32u) + i) * K_HALVES;
#if K_Q8_0
        var block = store_q8_0(p.k + r * p.k_stride + 32u * i);
#else
        var block = store_q4_0(p.k + r * p.k_stride + 32u * i);
#endif
        for (var h = 0u; h < K_HALVES; h++) { put_k(at + h, block[h]); }
    }
#else
    if i < p.k_row { k_pages[token * p.k_row + i] = bitcast<u32>(act[p.k + r * p.k_stride + i]); }
#endif
#endif
#if V_F16
    if i < p.v_row / 2u {
        let x = p.v + r * p.v_stride + 2u * i;
        v_pages[token * (p.v_row / 2u) + i] = pack2x16float(vec2<f32>(act[x], act[x + 1u]));
    }
#else
#if V_BLOCKS
    if i < p.v_row / 32u {
        let at = (token * (p.v_row / 32u) + i) * V_HALVES;
#if V_Q8_0
        var block = store_q8_0(p.v + r * p.v_stride + 32u * i);
#else
        var block = store_q4_0(p.v + r * p.v_stride + 32u * i);
#endif
        for (var h = 0u; h < V_HALVES; h++) { put_v(at + h, block[h]); }
    }
#else
    if i < p.v_row { v_pages[token * p.v_row + i] = bitcast<u32>(act[p.v + r * p.v_stride + i]); }
#endif
#endif
}
#else
#import act
// Something else where p.has_sinks is 0.
@group(0) @binding(3) var<storage, read> sinks: array<f32>;

const LOWEST: f32 = -3.0e38;
const PART: u32 = PART_PAGES * 64u;

fn first_seen(last: u32) -> u32 {
    if p.window > 0u && last + 1u > p.window { return last + 1u - p.window; }
    return 0u;
}

// Where part i of a row's head lies: its maximum, the sum of its weights, and of its weighted values.
fn part_of(row: u32, head: u32, i: u32) -> u32 {
    return p.parts + ((row * p.n_head + head) * p.max_parts + i) * (p.d_v + 2u);
}

// A query's maximum and the sum of its weights before any key: there may be a sink.
fn first_peak(head: u32) -> f32 {
    if p.has_sinks == 1u { return sinks[head]; }
    return LOWEST;
}

fn first_total() -> f32 { return f32(p.has_sinks); }

#if MERGE
@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let head = group.x / CHANNELS;
    let channel = group.x % CHANNELS * WG + lane;
    if channel >= p.d_v { return; }
    let last = row_position(group.y);
    let n = last / PART - first_seen(last) / PART + 1u;
    var peak = first_peak(head);
    var total = first_total();
    var y = 0.0;
    for (var i = 0u; i < n; i++) {
        let at = part_of(group.y, head, i);
        let high = max(peak, act_at(at));
        let shrink = exp(peak - high);
        let factor = exp(act_at(at) - high);
        total = fma(act_at(at + 1u), factor, total * shrink);
        y = fma(act_at(at + 2u + channel), factor, y * shrink);
        peak = high;
    }
    act_put(p.y + group.y * p.y_stride + head * p.d_v + channel, y / total);
}
#else
// FOURS: keys have a multiple of four numbers. F32 keys lie in fours then.
#if K_WIDE
@group(0) @binding(1) var<storage, read> k_pages: array<vec4<u32>>;
#else
@group(0) @binding(1) var<storage, read> k_pages: array<u32>;
#endif
@group(0) @binding(2) var<storage, read> v_pages: array<u32>;

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

#if K_WIDE
fn key_four(at: u32) -> vec4<f32> { return bitcast<vec4<f32>>(k_pages[at / 4u]); }
#else
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

fn key_four(at: u32) -> vec4<f32> {
#if K_F16
    return vec4<f32>(unpack2x16float(k_pages[at / 2u]), unpack2x16float(k_pages[at / 2u + 1u]));
#else
    return vec4<f32>(key(at), key(at + 1u), key(at + 2u), key(at + 3u));
#endif
}
#endif

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

// Keys of a thread; CHANNELS: its value channels.
const KEYS: u32 = 64u / WG;
// From query to query, so that threads that go along queries of their own use different banks.
const SCORES: u32 = 65u;

// Of a query and a key, then what the key's value weighs.
var<workgroup> sh_score: array<f32, TILE * SCORES>;
// Of a query: its maximum, and what the one before is to the new one.
var<workgroup> sh_high: array<f32, TILE>;
var<workgroup> sh_shrink: array<f32, TILE>;

fn scale_at(last: u32) -> f32 {
    if p.growth == 0.0 { return p.scale; }
    return p.scale * (1.0 + p.growth * log(1.0 + f32(last / p.context)));
}

// Rows `row` to `row + n`, all of one span: they see the same pages, each up to its own position. Of parts from `part` on
// all, or of several the one.
fn attend(head: u32, row: u32, n: u32, part: u32, lane: u32) {
    let span = row_span(row);
    let begin = row_position(row);
    let end = begin + n;
    let kv = head / (p.n_head / p.n_kv);
    let q = p.q + row * p.q_stride + head * p.d_k;
    // Query t is thread t's, too: its maximum and the sum of its weights. There is no query behind the last.
    let own_last = begin + min(lane, n - 1u);
    let own_first = first_seen(own_last);
    var whole_peak = first_peak(head);
    var whole_total = first_total();
    var whole: array<f32, TILE * CHANNELS>;
    let first_page = first_seen(begin) / 64u;
    for (var i = first_page / PART_PAGES + part; i * PART < end; i++) {
        var peak = LOWEST;
        var total = 0.0;
        var y: array<f32, TILE * CHANNELS>;
        let end_page = min((i + 1u) * PART_PAGES, (end + 63u) / 64u);
        for (var block = max(i * PART_PAGES, first_page); block < end_page; block++) {
            let page = span_page(span, p.group, block * 64u) * 64u;
            var z: array<f32, TILE * KEYS>;
            for (var i = 0u; i < TILE * KEYS; i++) { z[i] = 0.0; }
#if FOURS
            for (var u = 0u; u < p.d_k; u += 4u) {
                var k: array<vec4<f32>, KEYS>;
                for (var c = 0u; c < KEYS; c++) { k[c] = key_four((page + lane + c * WG) * p.k_row + kv * p.d_k + u); }
                for (var t = 0u; t < TILE; t++) {
                    let x = act_four(q + min(t, n - 1u) * p.q_stride + u);
                    for (var c = 0u; c < KEYS; c++) {
                        for (var e = 0u; e < 4u; e++) { z[t * KEYS + c] = fma(x[e], k[c][e], z[t * KEYS + c]); }
                    }
                }
            }
#else
            for (var u = 0u; u < p.d_k; u++) {
                var k: array<f32, KEYS>;
                for (var c = 0u; c < KEYS; c++) { k[c] = key((page + lane + c * WG) * p.k_row + kv * p.d_k + u); }
                for (var t = 0u; t < TILE; t++) {
                    let x = act_at(q + min(t, n - 1u) * p.q_stride + u);
                    for (var c = 0u; c < KEYS; c++) { z[t * KEYS + c] = fma(x, k[c], z[t * KEYS + c]); }
                }
            }
#endif
            for (var t = 0u; t < TILE; t++) {
                let last = begin + min(t, n - 1u);
                let first = first_seen(last);
                let scale = scale_at(last);
                for (var c = 0u; c < KEYS; c++) {
                    let j = lane + c * WG;
                    var score = z[t * KEYS + c] * scale;
                    if p.cap > 0.0 { score = p.cap * tanh(score / p.cap); }
                    let seen = block * 64u + j >= first && block * 64u + j <= last;
                    z[t * KEYS + c] = select(LOWEST, score, seen);
                    sh_score[t * SCORES + j] = z[t * KEYS + c];
                }
            }
            // Orders the scores before the threads that look for the maximum.
            workgroupBarrier();
            // Of the block's keys those that the thread's query sees: none if `lo` is not below `hi`.
            let lo = max(own_first, block * 64u) - block * 64u;
            let hi = min(max(own_last + 1u, block * 64u) - block * 64u, 64u);
            if lane < TILE {
                var high = peak;
                for (var j = lo; j < hi; j++) { high = max(high, sh_score[lane * SCORES + j]); }
                let shrink = exp(peak - high);
                total *= shrink;
                peak = high;
                sh_high[lane] = high;
                sh_shrink[lane] = shrink;
            }
            // Orders the maxima before the weights.
            workgroupBarrier();
            for (var t = 0u; t < TILE; t++) {
                let high = sh_high[t];
                let shrink = sh_shrink[t];
                for (var c = 0u; c < KEYS; c++) {
                    sh_score[t * SCORES + lane + c * WG] = exp(z[t * KEYS + c] - high);
                }
                for (var c = 0u; c < CHANNELS; c++) { y[t * CHANNELS + c] *= shrink; }
            }
            // Orders the weights before anyone reads them.
            workgroupBarrier();
            if lane < TILE {
                for (var j = lo; j < hi; j++) { total += sh_score[lane * SCORES + j]; }
            }
            let least = max(first_seen(begin), block * 64u) - block * 64u;
            let most = min(begin + n - block * 64u, 64u);
            for (var j = least; j < most; j++) {
                let at = (page + j) * p.v_row + kv * p.v_head;
                var v: array<f32, CHANNELS>;
                for (var c = 0u; c < CHANNELS; c++) {
                    v[c] = 0.0;
                    if lane + c * WG < p.d_v { v[c] = value(at + lane + c * WG); }
                }
                for (var t = 0u; t < TILE; t++) {
                    let weight = sh_score[t * SCORES + j];
                    let last = begin + min(t, n - 1u);
                    let seen = block * 64u + j >= first_seen(last) && block * 64u + j <= last;
                    // What a query does not see changes no bit of it.
                    for (var c = 0u; c < CHANNELS; c++) {
                        let i = t * CHANNELS + c;
                        y[i] = select(y[i], fma(weight, v[c], y[i]), seen);
                    }
                }
            }
            // Keeps the next page's scores from overwriting what a slow thread still reads.
            workgroupBarrier();
        }
#if SPLIT
        if p.n_parts > 1u {
            let at = part_of(row, head, part);
            if lane == 0u {
                act_put(at, peak);
                act_put(at + 1u, total);
            }
            for (var c = 0u; c < CHANNELS; c++) {
                if lane + c * WG < p.d_v { act_put(at + 2u + lane + c * WG, y[c]); }
            }
            return;
        }
#endif
        if lane < TILE {
            let high = max(whole_peak, peak);
            let shrink = exp(whole_peak - high);
            let factor = exp(peak - high);
            whole_total = fma(total, factor, whole_total * shrink);
            whole_peak = high;
            sh_high[lane] = factor;
            sh_shrink[lane] = shrink;
        }
        // Orders the factors before anyone reads them.
        workgroupBarrier();
        for (var t = 0u; t < TILE; t++) {
            for (var c = 0u; c < CHANNELS; c++) {
                let i = t * CHANNELS + c;
                whole[i] = fma(y[i], sh_high[t], whole[i] * sh_shrink[t]);
            }
        }
        // Keeps the next part's maxima from overwriting what a slow thread still reads.
        workgroupBarrier();
    }
    if lane < TILE { sh_high[lane] = whole_total; }
    // Orders the sums before anyone reads them.
    workgroupBarrier();
    for (var t = 0u; t < min(TILE, n); t++) {
        for (var c = 0u; c < CHANNELS; c++) {
            let channel = lane + c * WG;
            if channel < p.d_v {
                act_put(p.y + (row + t) * p.y_stride + head * p.d_v + channel, whole[t * CHANNELS + c] / sh_high[t]);
            }
        }
    }
    // Keeps the next rows from overwriting what a slow thread still reads.
    workgroupBarrier();
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
#if SPLIT
    // Other rows may see more parts.
    let last = row_position(group.y);
    if group.z <= last / PART - first_seen(last) / PART { attend(group.x, group.y, 1u, group.z, lane); }
#else
    var row = group.y * TILE;
    let end = min(row + TILE, p.rows);
    while row < end {
        let span = row_span(row);
        let n = min(end, span_first_row(span) + span_rows(span)) - row;
        attend(group.x, row, n, 0u, lane);
        row += n;
    }
#endif
}
#endif
#endif
