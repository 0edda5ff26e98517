// The rows whose outputs are wanted
// A thread a feature: grid (features, rows).
#import step

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let c = id.x;
    let r = id.y;
    if c >= N { return; }
    act[p.y + r * p.y_stride + c] = act[p.x + info[p.outputs + r] * p.x_stride + c];
}
