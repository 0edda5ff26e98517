// The eight pairs of 6-bit scale and minimum of Q4_K and Q5_K: 12 bytes from word 1 of a block.

fn block_byte(at: u32, i: u32) -> u32 { return (weight[at + i / 4u] >> (i % 4u * 8u)) & 255u; }

fn scale_and_min(base: u32, k: u32) -> vec2<f32> {
    if k < 4u {
        return vec2<f32>(f32(block_byte(base + 1u, k) & 63u), f32(block_byte(base + 1u, k + 4u) & 63u));
    }
    let low = block_byte(base + 1u, k + 4u);
    let scale = (low & 15u) | ((block_byte(base + 1u, k - 4u) >> 6u) << 4u);
    let minimum = (low >> 4u) | ((block_byte(base + 1u, k) >> 6u) << 4u);
    return vec2<f32>(f32(scale), f32(minimum));
}
