//! Parameters of a kernel: a Rust struct and its WGSL text from one definition.

/// A struct of 4-byte scalars that a shader reads as `p`.
pub(crate) trait Params: bytemuck::Pod {
    /// Names and WGSL types, in order.
    const FIELDS: &'static [(&'static str, &'static str)];

    /// The WGSL declaration.
    fn wgsl() -> String {
        let fields: String = Self::FIELDS.iter().map(|(name, ty)| format!("    {name}: {ty},\n")).collect();
        format!("struct P {{\n{fields}}}\nvar<immediate> p: P;\n")
    }

    /// Byte offset of a field.
    fn offset(name: &str) -> Option<usize> {
        Self::FIELDS.iter().position(|(n, _)| *n == name).map(|i| 4 * i)
    }
}

/// Largest parameter struct, in bytes: what every platform offers.
pub(crate) const MAX_PARAM_BYTES: usize = 128;

macro_rules! params {
    ($name:ident { $($field:ident: $ty:ident),* $(,)? }) => {
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
        pub(crate) struct $name { $(pub $field: $ty,)* }

        const _: () = assert!(size_of::<$name>() <= $crate::params::MAX_PARAM_BYTES);

        impl $crate::params::Params for $name {
            const FIELDS: &'static [(&'static str, &'static str)] = &[$((stringify!($field), stringify!($ty)),)*];
        }
    };
}
pub(crate) use params;
