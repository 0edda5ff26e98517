// Draws a token for each request, as segno_ir::sample defines it: thresholds by top-k, top-p and min-p, then the
// largest logit / temperature + Gumbel. A workgroup a request: grid (requests).
//
// Request, from p.requests, REQUEST words each: row, temperature, top_k, top_p, ln(min_p), seed (2), position,
// bias count and place, stop count and place, greedy, keep-all, ticket that the row was fed by (0: none).
#import step

const REQUEST: u32 = 15u;

var<workgroup> sh_value: array<f32, WG>;
var<workgroup> sh_count: array<u32, WG>;
var<workgroup> sh_id: array<u32, WG>;

fn is_nan(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u; }

// Orders as the floats do.
fn ordered(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}

fn from_ordered(key: u32) -> f32 {
    return bitcast<f32>(select(~key, key & 0x7fffffffu, (key >> 31u) == 1u));
}

fn mul_high(a: u32, b: u32) -> u32 {
    let al = a & 0xffffu;
    let ah = a >> 16u;
    let bl = b & 0xffffu;
    let bh = b >> 16u;
    let mid = ah * bl + ((al * bl) >> 16u);
    let low = (mid & 0xffffu) + al * bh;
    return ah * bh + (mid >> 16u) + (low >> 16u);
}

// Philox 4x32-10 (Salmon et al., SC 2011), its first word.
fn philox(counter: vec4<u32>, key: vec2<u32>) -> u32 {
    var c = counter;
    var k = key;
    for (var i = 0u; i < 10u; i++) {
        c = vec4<u32>(
            mul_high(0xCD9E8D57u, c.z) ^ c.y ^ k.x,
            0xCD9E8D57u * c.z,
            mul_high(0xD2511F53u, c.x) ^ c.w ^ k.y,
            0xD2511F53u * c.x,
        );
        k += vec2<u32>(0x9E3779B9u, 0xBB67AE85u);
    }
    return c.x;
}

fn logit(request: u32, at: u32, id: u32) -> f32 {
    var l = act[at + id];
    for (var i = 0u; i < info[request + 8u]; i++) {
        let bias = info[request + 9u] + 2u * i;
        if info[bias] == id { l += bitcast<f32>(info[bias + 1u]); }
    }
    return l;
}

fn sum_values(lane: u32, value: f32) -> f32 {
    sh_value[lane] = value;
    workgroupBarrier();
    for (var half = WG / 2u; half > 0u; half = half / 2u) {
        if lane < half { sh_value[lane] = sh_value[lane] + sh_value[lane + half]; }
        workgroupBarrier();
    }
    let total = sh_value[0];
    workgroupBarrier();
    return total;
}

fn sum_counts(lane: u32, value: u32) -> u32 {
    sh_count[lane] = value;
    workgroupBarrier();
    for (var half = WG / 2u; half > 0u; half = half / 2u) {
        if lane < half { sh_count[lane] = sh_count[lane] + sh_count[lane + half]; }
        workgroupBarrier();
    }
    let total = sh_count[0];
    workgroupBarrier();
    return total;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let request = p.requests + group.x * REQUEST;
    let at = p.x + info[request] * p.x_stride;

    // The largest key; NaN has none.
    var best = 0u;
    for (var id = lane; id < N; id += WG) {
        let l = logit(request, at, id);
        if !is_nan(l) { best = max(best, ordered(l)); }
    }
    sh_count[lane] = best;
    workgroupBarrier();
    for (var half = WG / 2u; half > 0u; half = half / 2u) {
        if lane < half { sh_count[lane] = max(sh_count[lane], sh_count[lane + half]); }
        workgroupBarrier();
    }
    let top = sh_count[0];
    workgroupBarrier();
    let peak = from_ordered(top);

    let greedy = info[request + 12u] == 1u;
    let top_k = info[request + 2u];
    let top_p = bitcast<f32>(info[request + 3u]);
    // Smallest key that is kept.
    var keep = 1u;
    if !greedy && top_k > 0u && top_k < N {
        // Bit by bit: the largest key that at least k logits reach.
        var key = 0u;
        for (var bit = 31u; bit < 32u; bit--) {
            let tried = key | (1u << bit);
            var n = 0u;
            for (var id = lane; id < N; id += WG) {
                let l = logit(request, at, id);
                if !is_nan(l) && ordered(l) >= tried { n++; }
            }
            if sum_counts(lane, n) >= top_k { key = tried; }
        }
        keep = max(keep, key);
    }
    if !greedy && top_p < 1.0 {
        var part = 0.0;
        for (var id = lane; id < N; id += WG) {
            let l = logit(request, at, id);
            if !is_nan(l) && ordered(l) >= keep { part += exp(l - peak); }
        }
        let wanted = top_p * sum_values(lane, part);
        var key = 0u;
        for (var bit = 31u; bit < 32u; bit--) {
            let tried = max(key | (1u << bit), keep);
            var sum = 0.0;
            for (var id = lane; id < N; id += WG) {
                let l = logit(request, at, id);
                if !is_nan(l) && ordered(l) >= tried { sum += exp(l - peak); }
            }
            if sum_values(lane, sum) >= wanted { key = key | (1u << bit); }
        }
        keep = max(keep, min(key, top));
    }
    if !greedy && info[request + 13u] == 0u {
        keep = max(keep, min(ordered(peak + bitcast<f32>(info[request + 4u])), top));
    }

    // The largest score, the lowest id among equals.
    let temperature = bitcast<f32>(info[request + 1u]);
    var score = 0u;
    var chosen = 0u;
    for (var id = lane; id < N; id += WG) {
        let l = logit(request, at, id);
        if is_nan(l) || ordered(l) < keep { continue; }
        var s = l;
        if !greedy {
            let word = philox(vec4<u32>(id, info[request + 7u], 0u, 0u), vec2<u32>(info[request + 5u], info[request + 6u]));
            let u = (f32(word >> 9u) + 0.5) / 8388608.0;
            s = l / temperature - log(-log(u));
        }
        let key = ordered(s);
        if key > score { score = key; chosen = id; }
    }
    sh_count[lane] = score;
    sh_id[lane] = chosen;
    workgroupBarrier();
    for (var half = WG / 2u; half > 0u; half = half / 2u) {
        if lane < half {
            let other = sh_count[lane + half];
            let id = sh_id[lane + half];
            if other > sh_count[lane] || (other == sh_count[lane] && id < sh_id[lane]) {
                sh_count[lane] = other;
                sh_id[lane] = id;
            }
        }
        workgroupBarrier();
    }
    if lane == 0u {
        let id = sh_id[0];
        var done = 0u;
        for (var i = 0u; i < info[request + 10u]; i++) {
            if info[info[request + 11u] + i] == id { done = 1u; }
        }
        let fed = info[request + 14u];
        if fed > 0u { done = done | tickets[fed]; }
        tickets[p.y + 2u * group.x] = id;
        tickets[p.y + 2u * group.x + 1u] = done;
    }
}
