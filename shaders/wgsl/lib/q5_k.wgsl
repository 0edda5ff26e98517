// Q5_K, 44 words a block of 256: d and dmin (f16), scales, 256 fifth bits, 256 nibbles. y = d sc q - dmin mn.
#import k_scales

fn weight_unit(row: u32, unit: u32) -> array<f32, 8> {
    let base = row * p.weight_row + unit / 32u * 44u;
    let k = unit % 32u / 4u;
    let d = unpack2x16float(weight[base]) * scale_and_min(base, k);
    let high = base + 4u + unit % 4u * 2u;
    let at = base + 12u + k / 2u * 8u + unit % 4u * 2u;
    let shift = k % 2u * 4u;
    let qa = ((weight[at] >> shift) & 0x0f0f0f0fu) | (((weight[high] >> k) & 0x01010101u) << 4u);
    let qb = ((weight[at + 1u] >> shift) & 0x0f0f0f0fu) | (((weight[high + 1u] >> k) & 0x01010101u) << 4u);
    let a = d.x * vec4<f32>(unpack4xU8(qa)) - d.y;
    let b = d.x * vec4<f32>(unpack4xU8(qb)) - d.y;
    return array<f32, 8>(a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w);
}
