// y = a b; b is a value, or a weight that is the same for every row; GROUPS: with one number for GROUP_WIDTH features
// A thread a feature: grid (features, rows).
#if WEIGHT
@group(0) @binding(1) var<storage, read> weight: array<f32>;
#endif

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let c = id.x;
    let r = id.y;
    if c >= N { return; }
    let a = act[p.a + r * p.a_stride + c];
    var i = c;
#if GROUPS
    i = c / GROUP_WIDTH;
#endif
#if WEIGHT
    let b = weight[i];
#else
    let b = act[p.b + r * p.b_stride + i];
#endif
    act[p.y + r * p.y_stride + c] = a * b;
}
