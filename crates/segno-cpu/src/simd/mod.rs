//! Kernels: one table a SIMD level, chosen when the device is opened.
//!
//! [`lanes`] and [`math`] are plain Rust that is compiled once for every level; [`float`] and
//! [`block`] have a portable form and one with intrinsics ([`avx2`]).

#[cfg(target_arch = "x86_64")]
mod avx2;
pub(crate) mod block;
pub(crate) mod float;
mod lanes;
mod math;
pub(crate) mod quant;
#[cfg(test)]
mod tests;

use segno_ir::op::activate::Activation;
use segno_quant::TensorType;

pub(crate) use lanes::{ScanToken, Softmax};

use block::BlockKernels;
use float::{DeltaToken, FloatRows, Inputs, Outputs, PAGE, Weighted};
use quant::QuantRowMut;

/// Declares the table, and for each level the functions of `lanes` compiled for it.
macro_rules! kernels {
    (
        lanes { $($(#[$lane_doc:meta])* $lane:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?;)* }
        own { $($(#[$own_doc:meta])* $own:ident: $own_ty:ty;)* }
    ) => {
        /// The kernels of one SIMD level.
        pub(crate) struct Kernels {
            /// The level's name.
            pub level: &'static str,
            $($(#[$lane_doc])* pub $lane: fn($($ty),*) $(-> $ret)?,)*
            $($(#[$own_doc])* pub $own: $own_ty,)*
        }

        mod portable_lanes {
            use super::*;
            $(pub fn $lane($($arg: $ty),*) $(-> $ret)? { lanes::$lane::<false>($($arg),*) })*
        }

        #[cfg(target_arch = "x86_64")]
        mod avx2_lanes {
            use super::*;
            $(pub fn $lane($($arg: $ty),*) $(-> $ret)? {
                #[target_feature(enable = "avx2,fma,f16c")]
                fn compiled($($arg: $ty),*) $(-> $ret)? { lanes::$lane::<true>($($arg),*) }
                // SAFETY: this table is chosen only where the features were detected.
                unsafe { compiled($($arg),*) }
            })*
        }

        /// The form that any machine runs.
        pub(crate) static PORTABLE: Kernels = Kernels {
            level: "portable",
            $($lane: portable_lanes::$lane,)*
            products: float::products,
            weighted_sums: float::weighted_sums,
            load_q8_0: block::load::<block::Q80>,
            load_q4_0: block::load::<block::Q40>,
            delta_rows: float::delta_rows,
            block: block::portable,
        };

        /// AVX2 with FMA and F16C: x86 processors since 2013 and 2015.
        #[cfg(target_arch = "x86_64")]
        static AVX2: Kernels = Kernels {
            level: "avx2",
            $($lane: avx2_lanes::$lane,)*
            products: avx2::products,
            weighted_sums: avx2::weighted_sums,
            load_q8_0: avx2::load_q8_0,
            load_q4_0: avx2::load_q4_0,
            delta_rows: avx2::delta_rows,
            block: avx2::block,
        };
    };
}

kernels! {
    lanes {
        /// `sum x`.
        sum(x: &[f32]) -> f32;
        /// `sum x^2`.
        sum_squares(x: &[f32]) -> f32;
        /// `y = f(x)`, or `y = f(gate) * x` with two inputs.
        activate(function: Activation, gate: &[f32], up: Option<&[f32]>, y: &mut [f32]);
        /// SiLU in place.
        silu(x: &mut [f32]);
        /// `y = cap tanh(x / cap)`.
        soft_cap(cap: f32, x: &[f32], y: &mut [f32]);
        /// Softplus in place.
        softplus_in_place(y: &mut [f32]);
        /// `y = e^x`.
        exp_all(x: &[f32], y: &mut [f32]);
        /// `y += a * b`, elementwise.
        multiply_add(a: &[f32], b: &[f32], y: &mut [f32]);
        /// See [`lanes::scan_rows`].
        scan_rows(token: &ScanToken<'_>, state: &mut [f32], y: &mut [f32]);
        /// See [`lanes::softmax_block`].
        softmax_block(scores: &mut [f32; PAGE], seen: (usize, usize), scale: f32, soft_cap: Option<f32>, sum: &mut Softmax) -> f32;
        /// See [`lanes::quantize_32`].
        quantize_32(x: &[f32], row: QuantRowMut<'_>);
        /// See [`lanes::quantize_256`].
        quantize_256(x: &[f32], row: QuantRowMut<'_>);
        /// Stores values as blocks of Q8_0, with the bits of `segno_quant::store_row`.
        store_q8_0(x: &[f32], out: &mut [u8]);
        /// Stores values as blocks of Q4_0, with the bits of `segno_quant::store_row`.
        store_q4_0(x: &[f32], out: &mut [u8]);
    }
    own {
        /// See [`float::products`].
        products: fn(&FloatRows<'_>, &Inputs<'_>, &Outputs<'_>);
        /// See [`float::weighted_sums`].
        weighted_sums: fn(&Weighted<'_>, &mut [f32]);
        /// Decodes whole blocks of Q8_0 exactly: `d q`.
        load_q8_0: fn(&[u8], &mut [f32]);
        /// Decodes whole blocks of Q4_0 exactly: `d (q - 8)`.
        load_q4_0: fn(&[u8], &mut [f32]);
        /// See [`float::delta_rows`].
        delta_rows: fn(&DeltaToken<'_>, &mut [f32], &mut [f32]);
        /// The kernels of a block type; `None` if it is decoded and multiplied with f32 activations.
        block: fn(TensorType) -> Option<BlockKernels>;
    }
}

/// The best that this machine has.
pub(crate) fn best() -> &'static Kernels {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
        return &AVX2;
    }
    &PORTABLE
}
