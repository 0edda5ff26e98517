// Q8_0, 9 words a block of 32: the scale (f16, padded to a word), 32 signed bytes. y = d q.

fn weight_unit(row: u32, unit: u32) -> array<f32, 8> {
    let base = row * p.weight_row + unit / 4u * 9u;
    let d = unpack2x16float(weight[base]).x;
    let at = base + 1u + unit % 4u * 2u;
    let a = d * vec4<f32>(unpack4xI8(weight[at]));
    let b = d * vec4<f32>(unpack4xI8(weight[at + 1u]));
    return array<f32, 8>(a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w);
}
