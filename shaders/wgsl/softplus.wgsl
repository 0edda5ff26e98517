// y = a softplus(x + b), softplus(x) = x above 20, else ln(1 + exp(x))
// GROUPS: a has one number for GROUP_WIDTH features
// A thread a feature: grid (features, rows).
#if BIAS
@group(0) @binding(1) var<storage, read> bias: array<f32>;
#endif
#if FACTOR
@group(0) @binding(2) var<storage, read> factor: array<f32>;
#endif

#import log_1p

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let c = id.x;
    let r = id.y;
    if c >= N { return; }
    var x = act[p.x + r * p.x_stride + c];
#if BIAS
    x += bias[c];
#endif
    var y = x;
    if x <= 20.0 { y = log_1p(exp(x)); }
#if FACTOR
#if GROUPS
    y *= factor[c / GROUP_WIDTH];
#else
    y *= factor[c];
#endif
#endif
    act[p.y + r * p.y_stride + c] = y;
}
