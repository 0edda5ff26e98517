// y[OFFSET + g * STRIDE + i] = x[g * WIDTH + i]: the groups of one input to their places
// A thread a feature: grid (features, rows).

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let c = id.x;
    let r = id.y;
    if c >= N { return; }
    let g = c / WIDTH;
    act[p.y + r * p.y_stride + OFFSET + g * STRIDE + c % WIDTH] = act[p.x + r * p.x_stride + c];
}
