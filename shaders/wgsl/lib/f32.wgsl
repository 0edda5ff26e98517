// F32 weights: rows of n_in words.

fn weight_unit(row: u32, unit: u32) -> array<f32, 8> {
    var y: array<f32, 8>;
    for (var i = 0u; i < 8u; i++) {
        let e = unit * 8u + i;
#if RAGGED
        if e < p.n_in { y[i] = bitcast<f32>(weight[row * p.weight_row + e]); }
#else
        y[i] = bitcast<f32>(weight[row * p.weight_row + e]);
#endif
    }
    return y;
}
