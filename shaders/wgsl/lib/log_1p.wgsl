// ln(1 + e) without losing small e: the series where 1 + e would round.
fn log_1p(e: f32) -> f32 {
    if e < 0.001 { return e * (1.0 - e * (0.5 - e * (1.0 / 3.0))); }
    return log(1.0 + e);
}
