// y[r] = scale * W[token(r)], or the row's own values.
// A thread takes 8 features of a row: grid (units, rows). Exact: one product a number.
#import step
#if WEIGHT
@group(0) @binding(1) var<storage, read> weight: array<u32>;
#import FORMAT
#endif

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let unit = id.x;
    let r = id.y;
    if unit * 8u >= p.n_in { return; }
    let kind = row_kind(r);
    let y = p.y + r * p.y_stride;
    if kind == 2u {
        let values = row_input(r);
        for (var e = unit * 8u; e < min(unit * 8u + 8u, p.n_in); e++) { act[y + e] = bitcast<f32>(info[values + e]); }
        return;
    }
#if WEIGHT
    var token = row_input(r);
    if kind == 1u { token = tickets[token]; }
    // A matrix beyond one binding comes in parts.
    if token < p.first || token - p.first >= p.count { return; }
    var w = weight_unit(token - p.first, unit);
    for (var i = 0u; i < 8u; i++) {
        let e = unit * 8u + i;
        if e < p.n_in { act[y + e] = w[i] * p.scale; }
    }
#endif
}
