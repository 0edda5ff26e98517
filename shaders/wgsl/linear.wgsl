// y[r, o] = sum_i W[o, i] x[r, i] + b[o]; GROUPS: GROUP_WIDTH outputs read N_IN features of their own
// A workgroup computes output o of TILE rows: grid (outputs, rows / TILE, outputs / 65535). Thread t sums the
// units (8 numbers) t, t + WG, ... in f32, then a binary tree over the threads: one order for every tile and batch.
@group(0) @binding(1) var<storage, read> weight: array<u32>;
#if BIAS
@group(0) @binding(2) var<storage, read> bias: array<f32>;
#endif
#import FORMAT

const UNITS: u32 = (N_IN + 7u) / 8u;

var<workgroup> sh_part: array<f32, WG * TILE>;

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
                    if unit * 8u + i < N_IN { part = fma(w[i], act[x + i], part); }
                }
                sum[k] += part;
            }
        }
    }
    for (var k = 0u; k < TILE; k++) { sh_part[k * WG + lane] = sum[k]; }
    // Orders the stores before the first level's reads.
    workgroupBarrier();
    for (var half = WG / 2u; half > 0u; half = half / 2u) {
        if lane < half {
            for (var k = 0u; k < TILE; k++) {
                sh_part[k * WG + lane] = sh_part[k * WG + lane] + sh_part[k * WG + lane + half];
            }
        }
        // Orders a level before the next.
        workgroupBarrier();
    }
    if lane < TILE && first + lane < p.rows {
        var y = sh_part[lane * WG];
#if BIAS
        y += bias[p.first + o];
#endif
        act[p.y + (first + lane) * p.y_stride + p.first + o] = y;
    }
}
