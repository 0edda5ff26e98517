// Turns pair i of each head by its angle; cosine and sine come from the host, [row, N_ROT/2] from p.table.
// A thread a feature: grid (features, rows).
#import step

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let c = id.x;
    let r = id.y;
    if c >= N { return; }
    let x = p.x + r * p.x_stride;
    let i = c % HEAD_DIM;
    let head = c - i;
    var y = act[x + c];
    if i < N_ROT {
#if NEOX
        let pair = i % (N_ROT / 2u);
        let a = act[x + head + pair];
        let b = act[x + head + pair + N_ROT / 2u];
        let second = i >= N_ROT / 2u;
#else
        let pair = i / 2u;
        let a = act[x + head + 2u * pair];
        let b = act[x + head + 2u * pair + 1u];
        let second = i % 2u == 1u;
#endif
        let at = p.table + (r * (N_ROT / 2u) + pair) * 2u;
        let cosine = bitcast<f32>(info[at]);
        let sine = bitcast<f32>(info[at + 1u]);
        y = select(a * cosine - b * sine, a * sine + b * cosine, second);
    }
    act[p.y + r * p.y_stride + c] = y;
}
