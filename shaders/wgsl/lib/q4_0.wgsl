// Q4_0, 5 words a block of 32: the scale (f16, padded to a word), 32 nibbles. y = d (q - 8).

fn weight_unit(row: u32, unit: u32) -> array<f32, 8> {
    let base = row * p.weight_row + unit / 4u * 5u;
    let scale = unpack2x16float(weight[base]);
    let k = unit % 4u;
    let at = base + 1u + k % 2u * 2u;
    // Elements 0 to 15 are the low nibbles, 16 to 31 the high ones.
    let shift = k / 2u * 4u;
    var a = unpack4xU8((weight[at] >> shift) & 0x0f0f0f0fu);
    var b = unpack4xU8((weight[at + 1u] >> shift) & 0x0f0f0f0fu);
    let x = scale.x * (vec4<f32>(a) - 8.0);
    let y = scale.x * (vec4<f32>(b) - 8.0);
    return array<f32, 8>(x.x, x.y, x.z, x.w, y.x, y.y, y.z, y.w);
}
