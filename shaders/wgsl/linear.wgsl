// y[r, o] = sum_i W[o, i] x[r, i] + b[o]; GROUPS: GROUP_WIDTH outputs read N_IN features of their own
// A workgroup computes an output (MANY: four) of TILE rows: grid (outputs, rows / TILE, outputs / 65535). Thread t sums
// the units (8 numbers) t, t + WG, ... in f32, then a binary tree over the threads: one order for every variant, tile and
// batch.
@group(0) @binding(1) var<storage, read> weight: array<u32>;
#if BIAS
@group(0) @binding(2) var<storage, read> bias: array<f32>;
#endif
#import FORMAT
#import tree

const UNITS: u32 = (N_IN + 7u) / 8u;

fn store(r: u32, o: u32, sum: f32) {
    if r >= p.rows || o >= p.count { return; }
    var y = sum;
#if BIAS
    y += bias[p.first + o];
#endif
    act[p.y + r * p.y_stride + p.first + o] = y;
}

#if MANY
var<workgroup> sh_part: array<f32, 4u * TILE * COLUMN>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let o = 4u * (group.x + group.z * 65535u);
    if o >= p.count { return; }
    let first = group.y * TILE;
    let last = p.count - 1u;
    var sum: array<vec4<f32>, TILE>;
    for (var unit = lane; unit < UNITS; unit += WG) {
        var a = weight_unit(o, unit);
        var b = weight_unit(min(o + 1u, last), unit);
        var c = weight_unit(min(o + 2u, last), unit);
        var d = weight_unit(min(o + 3u, last), unit);
        for (var k = 0u; k < TILE; k++) {
            let x = p.x + min(first + k, p.rows - 1u) * p.x_stride + unit * 8u;
            var part = vec4<f32>();
            for (var i = 0u; i < 8u; i++) {
#if RAGGED
                if unit * 8u + i < N_IN { part = fma(vec4<f32>(a[i], b[i], c[i], d[i]), vec4<f32>(act[x + i]), part); }
#else
                part = fma(vec4<f32>(a[i], b[i], c[i], d[i]), vec4<f32>(act[x + i]), part);
#endif
            }
            sum[k] += part;
        }
    }
    for (var k = 0u; k < TILE; k++) {
        for (var i = 0u; i < 4u; i++) { sh_part[(4u * k + i) * COLUMN + lane] = sum[k][i]; }
    }
    // Orders the stores before a thread adds what all threads have of its output.
    workgroupBarrier();
    for (var v = lane; v < 4u * TILE; v += WG) { store(first + v / 4u, o + v % 4u, tree(v * COLUMN)); }
}
#else
var<workgroup> sh_part: array<f32, TILE * COLUMN>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let o = group.x + group.z * 65535u;
    if o >= p.count { return; }
    let first = group.y * TILE;
    var sum: array<f32, TILE>;
    var start = p.x;
#if GROUPS
    start += (p.first + o) / GROUP_WIDTH * N_IN;
#endif
    for (var unit = lane; unit < UNITS; unit += WG) {
        var w = weight_unit(o, unit);
        for (var k = 0u; k < TILE; k++) {
            if first + k < p.rows {
                let x = start + (first + k) * p.x_stride + unit * 8u;
                var part = 0.0;
                for (var i = 0u; i < 8u; i++) {
#if RAGGED
                    if unit * 8u + i < N_IN { part = fma(w[i], act[x + i], part); }
#else
                    part = fma(w[i], act[x + i], part);
#endif
                }
                sum[k] += part;
            }
        }
    }
    for (var k = 0u; k < TILE; k++) { sh_part[k * COLUMN + lane] = sum[k]; }
    // Orders the stores before a thread adds what all threads have of its row.
    workgroupBarrier();
    if lane < TILE { store(first + lane, o, tree(lane * COLUMN)); }
}
#endif
