// y = w x / sqrt(mean(x^2) + eps) over groups of GROUP features.
// A workgroup a group of a row: grid (groups, rows). Thread t sums t, t + WG, ...; then a binary tree.
#if WEIGHT
@group(0) @binding(1) var<storage, read> weight: array<f32>;
#endif
#import reduce

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let x = p.x + group.y * p.x_stride + group.x * GROUP;
    let y = p.y + group.y * p.y_stride + group.x * GROUP;
    var sum = 0.0;
    for (var i = lane; i < GROUP; i += WG) { sum = fma(act[x + i], act[x + i], sum); }
    let total = workgroup_sum(lane, sum);
    let inverse = 1.0 / sqrt(total / f32(GROUP) + p.eps);
    for (var i = lane; i < GROUP; i += WG) {
#if WEIGHT
        act[y + i] = act[x + i] * inverse * weight[(group.x * GROUP + i) % WEIGHT_LEN];
#else
        act[y + i] = act[x + i] * inverse;
#endif
    }
}
