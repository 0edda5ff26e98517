// y = factor x
// A thread a feature: grid (features, rows).

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let c = id.x;
    let r = id.y;
    if c >= N { return; }
    act[p.y + r * p.y_stride + c] = p.factor * act[p.x + r * p.x_stride + c];
}
