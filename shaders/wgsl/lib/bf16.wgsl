// BF16 weights: the upper halves of f32, two in a word, rows padded to whole words.

fn weight_unit(row: u32, unit: u32) -> array<f32, 8> {
    var y: array<f32, 8>;
    for (var i = 0u; i < 4u; i++) {
        let e = unit * 8u + 2u * i;
#if RAGGED
        if e < p.n_in {
            let pair = weight[row * p.weight_row + e / 2u];
            y[2u * i] = bitcast<f32>(pair << 16u);
            y[2u * i + 1u] = select(0.0, bitcast<f32>(pair & 0xffff0000u), e + 1u < p.n_in);
        }
#else
        let pair = weight[row * p.weight_row + e / 2u];
        y[2u * i] = bitcast<f32>(pair << 16u);
        y[2u * i + 1u] = bitcast<f32>(pair & 0xffff0000u);
#endif
    }
    return y;
}
