// F32 weights: rows of N_IN words.

fn weight_unit(row: u32, unit: u32) -> array<f32, 8> {
    var y: array<f32, 8>;
    for (var i = 0u; i < 8u; i++) {
        let e = unit * 8u + i;
#if RAGGED
        if e < N_IN { y[i] = bitcast<f32>(weight[row * WEIGHT_ROW + e]); }
#else
        y[i] = bitcast<f32>(weight[row * WEIGHT_ROW + e]);
#endif
    }
    return y;
}
