// Sum over a workgroup of WG threads: a binary tree, so that the order is fixed.

var<workgroup> sh_sum: array<f32, WG>;

fn workgroup_sum(lane: u32, value: f32) -> f32 {
    sh_sum[lane] = value;
    // Orders the stores before the first level's reads.
    workgroupBarrier();
    for (var half = WG / 2u; half > 0u; half = half / 2u) {
        if lane < half {
            sh_sum[lane] = sh_sum[lane] + sh_sum[lane + half];
        }
        // Orders a level before the next.
        workgroupBarrier();
    }
    let total = sh_sum[0];
    // Keeps the next use from overwriting what a slow thread still reads.
    workgroupBarrier();
    return total;
}
