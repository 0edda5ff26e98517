// y[g * WIDTH + i] = x[OFFSET + g * STRIDE + i]; one run is a view and needs no dispatch
// A thread a feature: grid (features, rows).

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let c = id.x;
    let r = id.y;
    if c >= N { return; }
    let g = c / WIDTH;
    act[p.y + r * p.y_stride + c] = act[p.x + r * p.x_stride + OFFSET + g * STRIDE + c % WIDTH];
}
