//! Inner loops, each compiled twice: with AVX2, FMA and F16C, and portably.
//!
//! A reduction keeps eight lanes that are added in a fixed tree at the end; every tile width shares
//! that order, so a row's result does not depend on what is computed beside it.

/// Lanes of every reduction.
pub(crate) const LANES: usize = 8;

#[inline(always)]
fn fma<const F: bool>(a: f32, b: f32, c: f32) -> f32 {
    if F { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn tree(v: [f32; LANES]) -> f32 {
    ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
}

/// `sum a b`.
#[inline(always)]
fn dot<const F: bool>(a: &[f32], b: &[f32]) -> f32 {
    let n = a.len().min(b.len());
    let (a, b) = (&a[..n], &b[..n]);
    let mut acc = [[0f32; LANES]; 2];
    let body = n / 16 * 16;
    for (x, y) in a[..body].chunks_exact(16).zip(b[..body].chunks_exact(16)) {
        for h in 0..2 {
            for l in 0..LANES {
                acc[h][l] = fma::<F>(x[h * 8 + l], y[h * 8 + l], acc[h][l]);
            }
        }
    }
    for (l, (x, y)) in a[body..].iter().zip(&b[body..]).enumerate() {
        acc[l / 8][l % 8] = fma::<F>(*x, *y, acc[l / 8][l % 8]);
    }
    let mut sum = [0f32; LANES];
    for l in 0..LANES {
        sum[l] = acc[0][l] + acc[1][l];
    }
    tree(sum)
}

#[inline(always)]
fn axpy<const F: bool>(a: f32, x: &[f32], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = fma::<F>(a, *x, *y);
    }
}

/// One row of the delta rule's state: decays it, corrects it towards `v`, reads it with `q`.
#[inline(always)]
fn delta_row<const F: bool>(s: &mut [f32], decay: &[f32], k: &[f32], q: &[f32], v: f32, beta: f32) -> f32 {
    match decay {
        [one] => s.iter_mut().for_each(|s| *s *= one),
        _ => s.iter_mut().zip(decay).for_each(|(s, d)| *s *= d),
    }
    let delta = beta * (v - dot::<F>(s, k));
    axpy::<F>(delta, k, s);
    dot::<F>(s, q)
}

macro_rules! kernels {
    ($($(#[$doc:meta])* $name:ident = $body:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?;)*) => {
        /// The kernels of one SIMD level.
        #[derive(Clone, Copy)]
        pub(crate) struct Kernels { $($(#[$doc])* pub $name: fn($($ty),*) $(-> $ret)?,)* pub level: &'static str }

        mod portable {
            $(pub fn $name($($arg: $ty),*) $(-> $ret)? { super::$body::<false>($($arg),*) })*
        }

        #[cfg(target_arch = "x86_64")]
        mod avx2 {
            $(pub fn $name($($arg: $ty),*) $(-> $ret)? {
                #[target_feature(enable = "avx2,fma,f16c")]
                fn inner($($arg: $ty),*) $(-> $ret)? { super::$body::<true>($($arg),*) }
                // SAFETY: this table is chosen only where the features were detected.
                unsafe { inner($($arg),*) }
            })*
        }

        impl Kernels {
            /// The form that any machine runs.
            pub const PORTABLE: Kernels = Kernels { $($name: portable::$name,)* level: "portable" };

            /// The best that this machine has.
            pub fn best() -> Kernels {
                #[cfg(target_arch = "x86_64")]
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
                    return Kernels { $($name: avx2::$name,)* level: "avx2" };
                }
                Kernels::PORTABLE
            }
        }
    };
}

kernels! {
    /// Sum of products.
    dot = dot(a: &[f32], b: &[f32]) -> f32;
    /// `y += a x`.
    axpy = axpy(a: f32, x: &[f32], y: &mut [f32]);
    /// See [`delta_row`].
    delta_row = delta_row(s: &mut [f32], decay: &[f32], k: &[f32], q: &[f32], v: f32, beta: f32) -> f32;
}
