// y = f(x), or f(gate) x of two inputs
// A thread a feature: grid (features, rows).

fn sigmoid(x: f32) -> f32 { return 1.0 / (1.0 + exp(-x)); }

fn f(x: f32) -> f32 {
#if SILU
    return x * sigmoid(x);
#endif
#if GELU
    // Beyond 20 the tangent is 1 in f32; some drivers overflow in it instead.
    let inner = clamp(0.7978845608 * (x + 0.044715 * x * x * x), -20.0, 20.0);
    return 0.5 * x * (1.0 + tanh(inner));
#endif
#if RELU
    return max(x, 0.0);
#endif
#if RELU2
    let y = max(x, 0.0);
    return y * y;
#endif
#if SIGMOID
    return sigmoid(x);
#endif
#if TANH
    return tanh(clamp(x, -20.0, 20.0));
#endif
#if EXP
    return exp(x);
#endif
#if CLAMPED_SWIGLU
    let g = min(x, p.limit);
    return g * sigmoid(p.alpha * g);
#endif
}

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let c = id.x;
    let r = id.y;
    if c >= N { return; }
    var y = f(act[p.a + r * p.a_stride + c]);
#if GATED
#if CLAMPED_SWIGLU
    y *= clamp(act[p.b + r * p.b_stride + c], -p.limit, p.limit) + 1.0;
#else
    y *= act[p.b + r * p.b_stride + c];
#endif
#endif
    act[p.y + r * p.y_stride + c] = y;
}
