//! Flags about how keys and values are stored.

use clap::{Args, ValueEnum};
use segno_ir::KvType;

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum CacheType {
    F32,
    F16,
    #[value(name = "q8_0")]
    Q8,
    #[value(name = "q4_0")]
    Q4,
}

impl CacheType {
    pub fn kv(self) -> KvType {
        match self {
            CacheType::F32 => KvType::F32,
            CacheType::F16 => KvType::F16,
            CacheType::Q8 => KvType::Q8_0,
            CacheType::Q4 => KvType::Q4_0,
        }
    }
}

/// How keys and values are stored.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Memory")]
pub struct CacheArgs {
    /// Type of stored keys (also -ctk)
    #[arg(long, default_value = "f32", value_name = "TYPE")]
    cache_type_k: CacheType,
    /// Type of stored values (also -ctv)
    #[arg(long, default_value = "f32", value_name = "TYPE")]
    cache_type_v: CacheType,
}

impl CacheArgs {
    pub fn k(&self) -> KvType {
        self.cache_type_k.kv()
    }

    pub fn v(&self) -> KvType {
        self.cache_type_v.kv()
    }
}
