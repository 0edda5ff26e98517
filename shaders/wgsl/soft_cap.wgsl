// y = cap tanh(x / cap)
// A thread a feature: grid (features, rows).

// Beyond 20 the tangent is 1 in f32; some drivers overflow in it instead.
fn bounded_tanh(x: f32) -> f32 { return tanh(clamp(x, -20.0, 20.0)); }

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let c = id.x;
    let r = id.y;
    if c >= N { return; }
    act[p.y + r * p.y_stride + c] = p.cap * bounded_tanh(act[p.x + r * p.x_stride + c] / p.cap);
}
