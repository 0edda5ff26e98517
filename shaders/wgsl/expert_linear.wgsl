// y[r, s, o] = f[e] sum_i W[e, o, i] x[r, s, i] + b[e, o], e = expert s of row r
// COMBINE: y[r, o] = sum_s w[r, s] y[r, s, o]
// A workgroup computes TILE outputs of a row: grid (outputs / TILE, rows, slots; 1 of COMBINE). Thread t sums the
// units (8 numbers) t, t + WG, ... in f32, then a binary tree over the threads, in one order for every variant; slots are
// added in the router's order.
// The binding has the rows `first` to `first + count` of all experts' rows: what is outside, another dispatch adds.
@group(0) @binding(1) var<storage, read> weight: array<u32>;
// Something else where p.has_bias, p.has_factor are 0.
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> factor: array<f32>;
#import act
#import FORMAT
#import tree

var<workgroup> sh_part: array<f32, TILE * COLUMN>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let o = group.x * TILE;
    let route = p.route + group.y * p.route_stride;
    // A thread finishes at most one output.
    let own = o + lane;
    let finishes = lane < TILE && own < p.n_out;
    let y = p.y + group.y * p.y_stride + own;
    let units = (p.n_in + 7u) / 8u;
    var written = false;
    var result = 0.0;
#if COMBINE
    if p.slot > 0u && finishes { result = act_at(y); }
    let start = p.slot;
#else
    let start = p.slot + group.z;
#endif
    for (var s = start; s < start + p.slots; s++) {
        let expert = min(u32(act_at(route + p.k + s)), p.n_expert - 1u);
        let row = expert * p.n_out + o;
        let x = p.x + group.y * p.x_stride + s * p.x_slot;
        var sum: array<f32, TILE>;
        if row + TILE > p.first && row < p.first + p.count {
            for (var unit = lane; unit < units; unit += WG) {
#if RAGGED
                var part_x: array<f32, 8>;
                for (var i = 0u; i < min(8u, p.n_in - unit * 8u); i++) { part_x[i] = act_at(x + unit * 8u + i); }
#else
                var part_x = act_unit(x + unit * 8u);
#endif
                for (var j = 0u; j < TILE; j++) {
                    // What is outside is read at the binding's ends, and left.
                    var w = weight_unit(clamp(row + j, p.first, p.first + p.count - 1u) - p.first, unit);
                    var part = 0.0;
                    for (var i = 0u; i < 8u; i++) { part = fma(w[i], part_x[i], part); }
                    sum[j] += part;
                }
            }
        }
        for (var j = 0u; j < TILE; j++) { sh_part[j * COLUMN + lane] = sum[j]; }
        // Orders the stores before a thread adds what all threads have of its output.
        workgroupBarrier();
        let inside = finishes && row + lane >= p.first && row + lane < p.first + p.count;
        if inside {
            var product = tree(lane * COLUMN);
            if p.has_factor == 1u { product *= factor[expert]; }
            if p.has_bias == 1u { product += bias[row + lane]; }
            written = true;
#if COMBINE
            result += act_at(route + s) * product;
#else
            result = product;
#endif
        }
        // Keeps the next slot from overwriting what a slow thread still reads.
        workgroupBarrier();
    }
    if written {
#if COMBINE
        act_put(y, result);
#else
        act_put(y + start * p.n_out, result);
#endif
    }
}
