// Q6_K, 53 words a block of 256: low nibbles, upper bit pairs, 16 signed scales, d (f16, padded). y = d sc (q - 32).

fn weight_unit(row: u32, unit: u32) -> array<f32, 8> {
    let base = row * p.weight_row + unit / 32u * 53u;
    let e = unit % 32u * 8u;
    let half = e / 128u;
    let g = e % 128u / 32u;
    let l = e % 32u;
    let low = base + 16u * half + (l + 32u * (g & 1u)) / 4u;
    let high = base + 32u + 8u * half + l / 4u;
    let low_shift = g / 2u * 4u;
    let high_shift = 2u * g;
    let i = 8u * half + 2u * g + l / 16u;
    let scale = unpack4xI8(weight[base + 48u + i / 4u])[i % 4u];
    let d = unpack2x16float(weight[base + 52u]).x * f32(scale);
    let qa = ((weight[low] >> low_shift) & 0x0f0f0f0fu) | (((weight[high] >> high_shift) & 0x03030303u) << 4u);
    let qb = ((weight[low + 1u] >> low_shift) & 0x0f0f0f0fu) | (((weight[high + 1u] >> high_shift) & 0x03030303u) << 4u);
    let a = d * (vec4<f32>(unpack4xU8(qa)) - 32.0);
    let b = d * (vec4<f32>(unpack4xU8(qb)) - 32.0);
    return array<f32, 8>(a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w);
}
