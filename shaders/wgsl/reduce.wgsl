// y[g] = the sum, the Euclidean norm or the standard deviation of GROUP features.
// A workgroup a group of a row: grid (groups, rows). Thread t sums t, t + WG, ...; then a binary tree.
#import reduce

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let x = p.x + group.y * p.x_stride + group.x * GROUP;
    var sum = 0.0;
#if NORM
    for (var i = lane; i < GROUP; i += WG) { sum = fma(act[x + i], act[x + i], sum); }
#else
    for (var i = lane; i < GROUP; i += WG) { sum += act[x + i]; }
#endif
    var result = workgroup_sum(lane, sum);
#if NORM
    result = sqrt(result);
#endif
#if DEVIATION
    let mean = result / f32(GROUP);
    var squares = 0.0;
    for (var i = lane; i < GROUP; i += WG) {
        let d = act[x + i] - mean;
        squares = fma(d, d, squares);
    }
    result = sqrt(workgroup_sum(lane, squares) / f32(GROUP));
#endif
    if lane == 0u { act[p.y + group.y * p.y_stride + group.x] = result; }
}
