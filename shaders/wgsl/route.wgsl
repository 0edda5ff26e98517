// y = [weights | numbers] of the K experts with the largest logit (or weight + bias), the lowest number among equals.
// GROUPS: of those in the GROUPS_USED groups whose two best have the largest sums.
// A workgroup a row: grid (1, rows). Sums over experts: thread t takes t, t + WG, ...; then a binary tree.
#if BIAS
@group(0) @binding(1) var<storage, read> bias: array<f32>;
#endif
#import reduce
#if SQRT_SOFTPLUS
#import log_1p
#endif

var<workgroup> sh_p: array<f32, N>;
// Orders as the scores do: 0 once chosen, 1 for NaN.
var<workgroup> sh_key: array<u32, N>;
var<workgroup> sh_top: array<u32, WG>;
var<workgroup> sh_id: array<u32, WG>;

#if GROUPS
const SIZE: u32 = N / EXPERT_GROUPS;
var<workgroup> sh_group: array<u32, EXPERT_GROUPS>;
#endif

fn key_of(score: f32) -> u32 {
    // Zeros of either sign are equal.
    let bits = bitcast<u32>(select(score, 0.0, score == 0.0));
    if (bits & 0x7fffffffu) > 0x7f800000u { return 1u; }
    return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}

fn from_key(key: u32) -> f32 {
    return bitcast<f32>(select(~key, key & 0x7fffffffu, (key >> 31u) == 1u));
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let x = p.x + group.y * p.x_stride;
    let y = p.y + group.y * p.y_stride;
#if SOFTMAX
    var top = 0u;
    for (var e = lane; e < N; e += WG) { top = max(top, key_of(act[x + e])); }
    sh_top[lane] = top;
    workgroupBarrier();
    for (var half = WG / 2u; half > 0u; half = half / 2u) {
        if lane < half { sh_top[lane] = max(sh_top[lane], sh_top[lane + half]); }
        workgroupBarrier();
    }
    let peak = from_key(sh_top[0]);
    var part = 0.0;
    for (var e = lane; e < N; e += WG) {
        sh_p[e] = exp(act[x + e] - peak);
        part += sh_p[e];
    }
    let total = workgroup_sum(lane, part);
    for (var e = lane; e < N; e += WG) { sh_p[e] = sh_p[e] / total; }
#endif
#if SIGMOID
    for (var e = lane; e < N; e += WG) { sh_p[e] = 1.0 / (1.0 + exp(-act[x + e])); }
#endif
#if SQRT_SOFTPLUS
    for (var e = lane; e < N; e += WG) {
        let z = act[x + e];
        sh_p[e] = z;
        if z <= 20.0 { sh_p[e] = log_1p(exp(z)); }
        sh_p[e] = sqrt(sh_p[e]);
    }
#endif
#if SOFTMAX_CHOSEN
    for (var e = lane; e < N; e += WG) { sh_p[e] = act[x + e]; }
#endif
    for (var e = lane; e < N; e += WG) {
#if BIAS
        sh_key[e] = key_of(sh_p[e] + bias[e]);
#else
#if GROUPS
        sh_key[e] = key_of(sh_p[e]);
#else
        sh_key[e] = key_of(act[x + e]);
#endif
#endif
    }
#if GROUPS
    // Orders the keys before a group's are compared.
    workgroupBarrier();
    for (var g = lane; g < EXPERT_GROUPS; g += WG) {
        var best = 0u;
        var second = 0u;
        for (var e = g * SIZE; e < (g + 1u) * SIZE; e++) {
            second = max(second, min(best, sh_key[e]));
            best = max(best, sh_key[e]);
        }
        var total = from_key(best);
        if SIZE > 1u { total += from_key(second); }
        sh_group[g] = key_of(total);
    }
    // Orders the groups' keys before they are compared.
    workgroupBarrier();
    for (var g = lane; g < EXPERT_GROUPS; g += WG) {
        var better = 0u;
        for (var other = 0u; other < EXPERT_GROUPS; other++) {
            let ahead = sh_group[other] > sh_group[g] || (sh_group[other] == sh_group[g] && other < g);
            if ahead { better += 1u; }
        }
        if better >= GROUPS_USED {
            for (var e = g * SIZE; e < (g + 1u) * SIZE; e++) { sh_key[e] = 0u; }
        }
    }
#endif
    for (var j = 0u; j < K; j++) {
        // Orders the keys, and who was chosen last, before the search.
        workgroupBarrier();
        var best = 0u;
        var id = N - 1u;
        for (var e = lane; e < N; e += WG) {
            if sh_key[e] > best { best = sh_key[e]; id = e; }
        }
        sh_top[lane] = best;
        sh_id[lane] = id;
        workgroupBarrier();
        for (var half = WG / 2u; half > 0u; half = half / 2u) {
            if lane < half {
                let other = sh_top[lane + half];
                let other_id = sh_id[lane + half];
                if other > sh_top[lane] || (other == sh_top[lane] && other_id < sh_id[lane]) {
                    sh_top[lane] = other;
                    sh_id[lane] = other_id;
                }
            }
            workgroupBarrier();
        }
        if lane == 0u {
            let chosen = sh_id[0];
            sh_key[chosen] = 0u;
            act[y + j] = sh_p[chosen];
            act[y + K + j] = f32(chosen);
        }
    }
    if lane == 0u {
#if SOFTMAX_CHOSEN
        // The first one is the largest, but for a bias.
        var high = act[y];
        for (var j = 1u; j < K; j++) { high = max(high, act[y + j]); }
        var all = 0.0;
        for (var j = 0u; j < K; j++) {
            act[y + j] = exp(act[y + j] - high);
            all += act[y + j];
        }
        for (var j = 0u; j < K; j++) { act[y + j] = act[y + j] / all; }
#endif
        var sum = 1.0;
#if NORMALISE
        sum = 0.0;
        for (var j = 0u; j < K; j++) { sum += act[y + j]; }
        sum = max(sum, 1.0 / 16384.0);
#endif
        for (var j = 0u; j < K; j++) { act[y + j] = act[y + j] * p.scale / sum; }
    }
}
