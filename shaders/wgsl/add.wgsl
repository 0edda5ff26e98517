// y = a + b; GROUPS: b has one number for GROUP_WIDTH features
// A thread a feature: grid (features, rows).

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let c = id.x;
    let r = id.y;
    if c >= N { return; }
    var i = c;
#if GROUPS
    i = c / GROUP_WIDTH;
#endif
    act[p.y + r * p.y_stride + c] = act[p.a + r * p.a_stride + c] + act[p.b + r * p.b_stride + i];
}
