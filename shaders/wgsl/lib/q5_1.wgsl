// Q5_1, 6 words a block of 32: scale and minimum (f16), 32 fifth bits, 32 nibbles. y = d q + m.

fn weight_unit(row: u32, unit: u32) -> array<f32, 8> {
    let base = row * p.weight_row + unit / 4u * 6u;
    let scale = unpack2x16float(weight[base]);
    let k = unit % 4u;
    let at = base + 2u + k % 2u * 2u;
    // Elements 0 to 15 are the low nibbles, 16 to 31 the high ones.
    let shift = k / 2u * 4u;
    var a = unpack4xU8((weight[at] >> shift) & 0x0f0f0f0fu);
    var b = unpack4xU8((weight[at + 1u] >> shift) & 0x0f0f0f0fu);
    // Bit j of the second word is the fifth bit of element j.
    let high = weight[base + 1u] >> (8u * k);
    a = a | (((vec4<u32>(high) >> vec4<u32>(0u, 1u, 2u, 3u)) & vec4<u32>(1u)) << vec4<u32>(4u));
    b = b | (((vec4<u32>(high) >> vec4<u32>(4u, 5u, 6u, 7u)) & vec4<u32>(1u)) << vec4<u32>(4u));
    let x = scale.x * vec4<f32>(a) + scale.y;
    let y = scale.x * vec4<f32>(b) + scale.y;
    return array<f32, 8>(x.x, x.y, x.z, x.w, y.x, y.y, y.z, y.w);
}
