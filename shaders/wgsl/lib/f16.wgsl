// F16 weights: two in a word, rows padded to whole words.

fn weight_unit(row: u32, unit: u32) -> array<f32, 8> {
    var y: array<f32, 8>;
    for (var i = 0u; i < 4u; i++) {
        let e = unit * 8u + 2u * i;
#if RAGGED
        if e < p.n_in {
            let pair = unpack2x16float(weight[row * p.weight_row + e / 2u]);
            y[2u * i] = pair.x;
            y[2u * i + 1u] = select(0.0, pair.y, e + 1u < p.n_in);
        }
#else
        let pair = unpack2x16float(weight[row * p.weight_row + e / 2u]);
        y[2u * i] = pair.x;
        y[2u * i + 1u] = pair.y;
#endif
    }
    return y;
}
