// y[r, o] = sum_i W[o, i] x[r, i] + b[o]; GROUPS: group_width outputs read n_in features of their own
// A workgroup computes OUTPUTS outputs of TILE rows: grid (outputs / OUTPUTS, rows / TILE, 65535ths). Thread t sums
// the units (8 numbers) t, t + WG, ... in f32, then a binary tree over the threads: one order for every variant, tile and
// batch.
@group(0) @binding(1) var<storage, read> weight: array<u32>;
#if BIAS
@group(0) @binding(2) var<storage, read> bias: array<f32>;
#endif
#import act
#import FORMAT
#import tree

fn store(r: u32, o: u32, sum: f32) {
    if r >= p.rows || o >= p.count { return; }
    var y = sum;
#if BIAS
    y += bias[p.first + o];
#endif
    act_put(p.y + r * p.y_stride + p.first + o, y);
}

var<workgroup> sh_part: array<f32, OUTPUTS * TILE * COLUMN>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let o = OUTPUTS * (group.x + group.z * 65535u);
    if o >= p.count { return; }
    let first = group.y * TILE;
    let units = (p.n_in + 7u) / 8u;
    var start = p.x;
#if GROUPS
    start += (p.first + o) / p.group_width * p.n_in;
#endif
    var sum: array<f32, OUTPUTS * TILE>;
    for (var unit = lane; unit < units; unit += WG) {
        var w: array<array<f32, 8>, OUTPUTS>;
        for (var j = 0u; j < OUTPUTS; j++) { w[j] = weight_unit(min(o + j, p.count - 1u), unit); }
        for (var k = 0u; k < TILE; k++) {
            // The last row again where there are fewer: no branch keeps all rows' loads from being under way at once.
            let at = start + min(first + k, p.rows - 1u) * p.x_stride + unit * 8u;
#if RAGGED
            let n = min(8u, p.n_in - unit * 8u);
            var x: array<f32, 8>;
            for (var i = 0u; i < n; i++) { x[i] = act_at(at + i); }
#else
            let n = 8u;
            var x = act_unit(at);
#endif
            for (var j = 0u; j < OUTPUTS; j++) {
                var part = 0.0;
                for (var i = 0u; i < n; i++) { part = fma(w[j][i], x[i], part); }
                sum[k * OUTPUTS + j] += part;
            }
        }
    }
    for (var v = 0u; v < OUTPUTS * TILE; v++) { sh_part[v * COLUMN + lane] = sum[v]; }
    // Orders the stores before a thread adds what all threads have of its output.
    workgroupBarrier();
    for (var v = lane; v < OUTPUTS * TILE; v += WG) { store(first + v / OUTPUTS, o + v % OUTPUTS, tree(v * COLUMN)); }
}
