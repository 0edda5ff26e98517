// Blocks of stored keys and values from 32 numbers at place `x` of the activations: 16-bit words, the scale first.
// As segno_quant's store_row has it, but for the rounding of quotients.

// The number of largest magnitude, the first of equal ones; NaN is larger than all others.
fn largest_of_32(x: u32) -> f32 {
    var largest = 0u;
    for (var i = 0u; i < 32u; i++) {
        let bits = bitcast<u32>(act[x + i]);
        if (bits & 0x7fffffffu) > (largest & 0x7fffffffu) { largest = bits; }
    }
    return bitcast<f32>(largest);
}

// The half nearest to `largest / steps`, as bits; beyond the halves the largest of them.
fn block_scale(largest: f32, steps: f32) -> u32 {
    if (bitcast<u32>(largest) & 0x7fffffffu) > 0x7f800000u { return 0x7e00u; }
    return pack2x16float(vec2<f32>(clamp(largest / steps, -65504.0, 65504.0), 0.0)) & 0xffffu;
}

fn block_code(x: f32, d: f32, low: f32, high: f32) -> i32 {
    if d == 0.0 { return 0; }
    return i32(clamp(round(x / d), low, high));
}

fn store_q8_0(x: u32) -> array<u32, 17> {
    var block: array<u32, 17>;
    block[0] = block_scale(abs(largest_of_32(x)), 127.0);
    let d = unpack2x16float(block[0]).x;
    for (var i = 0u; i < 16u; i++) {
        let low = block_code(act[x + 2u * i], d, -127.0, 127.0);
        let high = block_code(act[x + 2u * i + 1u], d, -127.0, 127.0);
        block[i + 1u] = bitcast<u32>(low) & 0xffu | (bitcast<u32>(high) & 0xffu) << 8u;
    }
    return block;
}

// Byte i holds number i in its low and number i + 16 in its high half.
fn nibbles(x: u32, d: f32) -> u32 {
    let low = block_code(act[x], d, -8.0, 7.0) + 8;
    let high = block_code(act[x + 16u], d, -8.0, 7.0) + 8;
    return u32(low) | u32(high) << 4u;
}

fn store_q4_0(x: u32) -> array<u32, 9> {
    var block: array<u32, 9>;
    block[0] = block_scale(largest_of_32(x), -8.0);
    let d = unpack2x16float(block[0]).x;
    for (var i = 0u; i < 8u; i++) {
        block[i + 1u] = nibbles(x + 2u * i, d) | nibbles(x + 2u * i + 1u, d) << 8u;
    }
    return block;
}
