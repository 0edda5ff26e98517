// y = a + b
// A thread a feature: grid (features, rows).

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let c = id.x;
    let r = id.y;
    if c >= N { return; }
    act[p.y + r * p.y_stride + c] = act[p.a + r * p.a_stride + c] + act[p.b + r * p.b_stride + c];
}
