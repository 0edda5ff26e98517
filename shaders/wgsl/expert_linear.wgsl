// y[r, s, o] = f[e] sum_i W[e, o, i] x[r, s, i] + b[e, o], e = expert s of row r
// COMBINE: y[r, o] = sum_s w[r, s] y[r, s, o]
// A workgroup an output of a row: grid (outputs, rows, slots; 1 of COMBINE). Thread t sums the units (8 numbers) t,
// t + WG, ... in f32, then a binary tree over the threads; slots are added in the router's order.
// The binding has the rows `first` to `first + count` of all experts' rows: what is outside, another dispatch adds.
@group(0) @binding(1) var<storage, read> weight: array<u32>;
#if BIAS
@group(0) @binding(2) var<storage, read> bias: array<f32>;
#endif
#if FACTOR
@group(0) @binding(3) var<storage, read> factor: array<f32>;
#endif
#import FORMAT
#import reduce

const UNITS: u32 = (N_IN + 7u) / 8u;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let o = group.x;
    let route = p.route + group.y * p.route_stride;
    let y = p.y + group.y * p.y_stride + o;
    var written = false;
    var result = 0.0;
#if COMBINE
    if p.slot > 0u { result = act[y]; }
    let start = p.slot;
#else
    let start = p.slot + group.z;
#endif
    for (var s = start; s < start + p.slots; s++) {
        let expert = min(u32(act[route + K + s]), N_EXPERT - 1u);
        let row = expert * N_OUT + o;
        let inside = row >= p.first && row - p.first < p.count;
#if PER_SLOT
        let x = p.x + group.y * p.x_stride + s * N_IN;
#else
        let x = p.x + group.y * p.x_stride;
#endif
        var sum = 0.0;
        if inside {
            for (var unit = lane; unit < UNITS; unit += WG) {
                var w = weight_unit(row - p.first, unit);
                var part = 0.0;
                for (var i = 0u; i < 8u; i++) {
                    if unit * 8u + i < N_IN { part = fma(w[i], act[x + unit * 8u + i], part); }
                }
                sum += part;
            }
        }
        var product = workgroup_sum(lane, sum);
#if FACTOR
        product *= factor[expert];
#endif
#if BIAS
        product += bias[row];
#endif
        written = written || inside;
#if COMBINE
        if inside { result += act[route + s] * product; }
#else
        result = product;
#endif
    }
    if lane == 0u && written {
#if COMBINE
        act[y] = result;
#else
        act[y + start * N_OUT] = result;
#endif
    }
}
