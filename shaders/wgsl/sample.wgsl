// Draws a token for each request, as segno_ir::sample defines it: thresholds by top-k, top-p and min-p, then the
// largest logit / temperature + Gumbel. MAXIMA first finds the largest key of each of CHUNKS chunks of logits, a thread a
// chunk: grid (CHUNKS / WG, requests). Then a workgroup a request, grid (requests), reads those chunks alone that may have
// what it looks for.
//
// Request, from p.requests, REQUEST words each: row, temperature, top_k, top_p, ln(min_p), seed (2), position,
// bias count and place, stop count and place, greedy, keep-all, ticket that the row was fed by (0: none).
#import step

const REQUEST: u32 = 15u;

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

// What is read of the request for every logit.
var<private> row: u32;
var<private> n_bias: u32;

fn begin(request: u32) {
    row = p.x + info[request] * p.x_stride;
    n_bias = info[request + 8u];
}

fn logit(request: u32, id: u32) -> f32 {
    var l = act[row + id];
    for (var i = 0u; i < n_bias; i++) {
        let bias = info[request + 9u] + 2u * i;
        if info[bias] == id { l += bitcast<f32>(info[bias + 1u]); }
    }
    return l;
}

// NaN has no key.
fn key_of(l: f32) -> u32 { return select(ordered(l), 0u, is_nan(l)); }

fn chunk_end(chunk: u32) -> u32 { return min((chunk + 1u) * p.chunk, p.n); }

#if MAXIMA
@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let request = p.requests + id.y * REQUEST;
    begin(request);
    var best = 0u;
    for (var i = id.x * p.chunk; i < chunk_end(id.x); i++) { best = max(best, key_of(logit(request, i))); }
    tickets[p.maxima + id.y * CHUNKS + id.x] = best;
}
#else
#import reduce

// Threads that read a chunk together.
const READERS: u32 = 32u;

var<workgroup> sh_count: array<u32, WG>;
var<workgroup> sh_id: array<u32, WG>;
// Largest key of each chunk, and which chunks are looked at.
var<workgroup> sh_max: array<u32, CHUNKS>;
var<workgroup> sh_list: array<u32, CHUNKS>;
// Keys of all logits that are looked at, where those are few.
const FEW: u32 = 512u;
var<workgroup> sh_key: array<u32, FEW>;

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

fn largest(lane: u32, value: u32) -> u32 {
    sh_count[lane] = value;
    workgroupBarrier();
    for (var half = WG / 2u; half > 0u; half = half / 2u) {
        if lane < half { sh_count[lane] = max(sh_count[lane], sh_count[lane + half]); }
        workgroupBarrier();
    }
    let found = sh_count[0];
    workgroupBarrier();
    return found;
}

// The sum of what the threads before have.
fn sum_before(lane: u32, value: u32) -> u32 {
    sh_count[lane] = value;
    workgroupBarrier();
    var sum = 0u;
    for (var t = 0u; t < lane; t++) { sum += sh_count[t]; }
    workgroupBarrier();
    return sum;
}

// Lists the chunks with a key from `keep` on, in order; how many there are.
fn list_chunks(lane: u32, keep: u32) -> u32 {
    let each = CHUNKS / WG;
    var n = 0u;
    for (var i = 0u; i < each; i++) { n += u32(sh_max[lane * each + i] >= keep); }
    var place = sum_before(lane, n);
    for (var i = 0u; i < each; i++) {
        if sh_max[lane * each + i] >= keep {
            sh_list[place] = lane * each + i;
            place++;
        }
    }
    return sum_counts(lane, n);
}

// How many logits of listed chunks have a key from `least` on, of this thread's.
fn own_from(lane: u32, request: u32, n_list: u32, least: u32) -> u32 {
    var n = 0u;
    for (var i = lane / READERS; i < n_list; i += WG / READERS) {
        let chunk = sh_list[i];
        if sh_max[chunk] < least { continue; }
        for (var id = chunk * p.chunk + lane % READERS; id < chunk_end(chunk); id += READERS) {
            n += u32(key_of(logit(request, id)) >= least);
        }
    }
    return n;
}

// Keeps the keys from `keep` on where they are few, thread by thread; how many there are.
fn keep_keys(lane: u32, request: u32, n_list: u32, keep: u32) -> u32 {
    let own = own_from(lane, request, n_list, keep);
    var place = sum_before(lane, own);
    let n = sum_counts(lane, own);
    if own > 0u && n <= FEW {
        for (var i = lane / READERS; i < n_list; i += WG / READERS) {
            let chunk = sh_list[i];
            if sh_max[chunk] < keep { continue; }
            for (var id = chunk * p.chunk + lane % READERS; id < chunk_end(chunk); id += READERS) {
                let key = key_of(logit(request, id));
                if key >= keep {
                    sh_key[place] = key;
                    place++;
                }
            }
        }
    }
    workgroupBarrier();
    return n;
}

// How many of `n` kept keys, or of all logits of listed chunks, are from `least` on.
fn count_from(lane: u32, request: u32, n: u32, n_list: u32, least: u32) -> u32 {
    var count = 0u;
    if n <= FEW {
        for (var i = lane; i < n; i += WG) { count += u32(sh_key[i] >= least); }
    } else {
        count = own_from(lane, request, n_list, least);
    }
    return sum_counts(lane, count);
}

// The sum of exp(logit - peak) of those.
fn sum_from(lane: u32, request: u32, n: u32, n_list: u32, least: u32, peak: f32) -> f32 {
    var sum = 0.0;
    if n <= FEW {
        for (var i = lane; i < n; i += WG) {
            if sh_key[i] >= least { sum += exp(from_ordered(sh_key[i]) - peak); }
        }
    } else {
        for (var i = lane / READERS; i < n_list; i += WG / READERS) {
            let chunk = sh_list[i];
            if sh_max[chunk] < least { continue; }
            for (var id = chunk * p.chunk + lane % READERS; id < chunk_end(chunk); id += READERS) {
                let l = logit(request, id);
                if key_of(l) >= least { sum += exp(l - peak); }
            }
        }
    }
    return workgroup_sum(lane, sum);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let request = p.requests + group.x * REQUEST;
    begin(request);
    var best = 0u;
    for (var i = lane; i < CHUNKS; i += WG) {
        sh_max[i] = tickets[p.maxima + group.x * CHUNKS + i];
        best = max(best, sh_max[i]);
    }
    let top = largest(lane, best);
    let peak = from_ordered(top);

    let greedy = info[request + 12u] == 1u;
    let top_k = info[request + 2u];
    let top_p = bitcast<f32>(info[request + 3u]);
    // Smallest key that is kept.
    var keep = select(1u, max(top, 1u), greedy);
    let cut = !greedy && top_k > 0u && top_k < p.n;
    if cut && top_k <= CHUNKS {
        // As many chunks reach this key as logits are wanted, so that many logits do.
        var key = 0u;
        for (var bit = 31u; bit < 32u; bit--) {
            let tried = key | (1u << bit);
            var n = 0u;
            for (var i = lane; i < CHUNKS; i += WG) { n += u32(sh_max[i] >= tried); }
            if sum_counts(lane, n) >= top_k { key = tried; }
        }
        keep = max(keep, key);
    }
    let n_list = list_chunks(lane, keep);
    let n_keys = keep_keys(lane, request, n_list, keep);
    if cut {
        // Bit by bit: the largest key that at least k logits reach.
        var key = 0u;
        for (var bit = 31u; bit < 32u; bit--) {
            let tried = key | (1u << bit);
            let n = count_from(lane, request, n_keys, n_list, max(tried, keep));
            if tried <= keep || n >= top_k { key = tried; }
        }
        keep = max(keep, key);
    }
    if !greedy && top_p < 1.0 {
        let wanted = top_p * sum_from(lane, request, n_keys, n_list, keep, peak);
        var key = 0u;
        for (var bit = 31u; bit < 32u; bit--) {
            let tried = max(key | (1u << bit), keep);
            if sum_from(lane, request, n_keys, n_list, tried, peak) >= wanted { key = key | (1u << bit); }
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
    for (var i = lane / READERS; i < n_list; i += WG / READERS) {
        let chunk = sh_list[i];
        if sh_max[chunk] < keep { continue; }
        for (var id = chunk * p.chunk + lane % READERS; id < chunk_end(chunk); id += READERS) {
            let l = logit(request, id);
            if key_of(l) < keep { continue; }
            var s = l;
            if !greedy {
                let counter = vec4<u32>(id, info[request + 7u], 0u, 0u);
                let word = philox(counter, vec2<u32>(info[request + 5u], info[request + 6u]));
                let u = (f32(word >> 9u) + 0.5) / 8388608.0;
                s = l / temperature - log(-log(u));
            }
            let key = ordered(s);
            if key > score { score = key; chosen = id; }
        }
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
#endif
