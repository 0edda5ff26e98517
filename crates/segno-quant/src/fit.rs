//! The search for scales: least squared error over a few starting points.
//!
//! A scale that maps the largest value to the last step is rarely the best: for 4 bits, giving up a little
//! range makes all other steps finer. So a few scales around it are tried; after each, the codes are held
//! and scale (and minimum) are solved for by least squares. Errors are measured with the scale as it will be
//! stored, so the search never does worse than the plain formula, which is among the candidates.

/// The code nearest to `x / d`, ties to even; 0, or what is nearest to it, if `d` is 0.
pub(crate) fn nearest(x: f32, d: f32, low: i32, high: i32) -> i32 {
    let q = if d == 0.0 { 0.0 } else { (x / d).round_ties_even() };
    (q as i32).clamp(low, high)
}

/// The value of largest magnitude, the first of equal ones. NaN counts as larger than all others.
pub(crate) fn largest(values: &[f32]) -> f32 {
    let size = |x: f32| x.abs().to_bits();
    values.iter().fold(0.0, |largest, &x| if size(x) > size(largest) { x } else { largest })
}

/// Squared error of `values` as `d * q`.
pub(crate) fn symmetric_error(values: &[f32], d: f32, low: i32, high: i32) -> f64 {
    let error = |&x: &f32| f64::from(x - d * nearest(x, d, low, high) as f32).powi(2);
    values.iter().map(error).sum()
}

/// Squared error of `values` as `d * q + m`, q from 0 to `q_max`.
pub(crate) fn affine_error(values: &[f32], d: f32, m: f32, q_max: i32) -> f64 {
    let error = |&x: &f32| f64::from(x - (d * nearest(x - m, d, 0, q_max) as f32 + m)).powi(2);
    values.iter().map(error).sum()
}

/// A scale as it is stored: exact, or a half.
pub(crate) trait Stored: Copy {
    /// What decoding reads.
    fn read(self) -> f32;
}

impl Stored for f32 {
    fn read(self) -> f32 {
        self
    }
}

impl Stored for crate::F16Le {
    fn read(self) -> f32 {
        self.get()
    }
}

/// The scale for `d * q`, q from `low` (below zero) to `high`; it may be negative.
pub(crate) fn symmetric<S: Stored>(values: &[f32], low: i32, high: i32, store: impl Fn(f32) -> S) -> S {
    let largest = largest(values);
    let mut best = (f64::INFINITY, store(0.0));
    let mut try_scale = |d: f32| {
        let stored = store(d);
        let error = symmetric_error(values, stored.read(), low, high);
        if error < best.0 {
            best = (error, stored);
        }
    };
    for tenth in -9..=9 {
        // The range has one more code below zero than above: the largest value gets that side.
        let d = largest / (low as f32 + tenth as f32 * 0.1);
        try_scale(d);
        let (mut xq, mut qq) = (0f64, 0f64);
        for &x in values {
            let q = f64::from(nearest(x, d, low, high));
            xq += f64::from(x) * q;
            qq += q * q;
        }
        if qq > 0.0 {
            try_scale((xq / qq) as f32);
        }
    }
    best.1
}

/// Which minima a format can hold.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Minimum {
    /// Any.
    Any,
    /// Zero and below.
    NotPositive,
}

/// Scale and minimum for `d * q + m`, q from 0 to `q_max`.
pub(crate) fn affine<S: Stored>(values: &[f32], q_max: i32, minimum: Minimum, store: impl Fn(f32) -> S) -> (S, S) {
    let allowed = |m: f32| if minimum == Minimum::NotPositive { m.min(0.0) } else { m };
    let low = allowed(values.iter().copied().fold(f32::INFINITY, f32::min));
    let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max).max(low);
    let mut best = (f64::INFINITY, (store(0.0), store(low)));
    let mut try_pair = |d: f32, m: f32| {
        let (d, m) = (store(d), store(m));
        let error = affine_error(values, d.read(), m.read(), q_max);
        if error < best.0 {
            best = (error, (d, m));
        }
    };
    // The difference of finite values may be infinite.
    let range = (f64::from(high) - f64::from(low)).min(f64::from(f32::MAX)) as f32;
    for tenth in -10..=10 {
        let d = range / (q_max as f32 + tenth as f32 * 0.1);
        try_pair(d, low);
        // Least squares for both; sums in f64, where they cannot overflow.
        let n = values.len() as f64;
        let (mut x1, mut q1, mut qq, mut xq) = (0f64, 0f64, 0f64, 0f64);
        for &x in values {
            let q = f64::from(nearest(x - low, d, 0, q_max));
            x1 += f64::from(x);
            q1 += q;
            qq += q * q;
            xq += f64::from(x) * q;
        }
        let determinant = n * qq - q1 * q1;
        if determinant > 0.0 {
            let (d, m) = ((n * xq - x1 * q1) / determinant, (qq * x1 - q1 * xq) / determinant);
            if minimum == Minimum::NotPositive && m > 0.0 {
                try_pair((xq / qq) as f32, 0.0);
            } else if d > 0.0 {
                try_pair(d as f32, m as f32);
            }
        }
    }
    best.1
}
