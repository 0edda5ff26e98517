//! Numbers of a case: drawn by counter from a key, which is a hash of the case's name.

use segno_ir::sample::philox;

/// A generator. The same name gives the same numbers on every machine.
pub(crate) struct Random {
    key: [u32; 2],
    counter: u32,
    words: [u32; 4],
    left: usize,
}

impl Random {
    /// The generator of a case (FNV-1a of its name).
    pub fn of(name: &str) -> Self {
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ b as u64).wrapping_mul(0x0100_0000_01b3));
        Random { key: [hash as u32, (hash >> 32) as u32], counter: 0, words: [0; 4], left: 0 }
    }

    /// 32 random bits.
    pub fn word(&mut self) -> u32 {
        if self.left == 0 {
            self.words = philox([self.counter, 0, 0, 0x5e60], self.key);
            self.counter += 1;
            self.left = 4;
        }
        self.left -= 1;
        self.words[self.left]
    }

    /// An integer below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        ((self.word() as u64 * n as u64) >> 32) as usize
    }

    /// Uniform in `0 <= x < 1`.
    pub fn uniform(&mut self) -> f32 {
        (self.word() >> 8) as f32 / 16_777_216.0
    }

    /// Uniform between two numbers.
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.uniform()
    }

    /// Standard normal (Box and Muller).
    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f32::consts::TAU * self.uniform()).cos()
    }

    /// Shuffles in place.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// What a case's input rows look like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Values {
    /// Standard normal.
    Normal,
    /// Normal times a factor.
    Scaled(f32),
    /// Magnitudes spread evenly over `2^-12 .. 2^12`.
    Mixed,
    /// Normal with a value 1000 times larger every 37 features, as hidden states of models have.
    Outlier,
    /// Zeros of either sign, and rows that are all zero.
    Sparse,
}

impl std::fmt::Display for Values {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Values::Normal => f.write_str("normal"),
            Values::Scaled(s) => write!(f, "{s:e}"),
            Values::Mixed => f.write_str("mixed"),
            Values::Outlier => f.write_str("outlier"),
            Values::Sparse => f.write_str("sparse"),
        }
    }
}

impl Values {
    /// Fills one row.
    pub fn fill(self, rng: &mut Random, row: usize, out: &mut [f32]) {
        for (i, v) in out.iter_mut().enumerate() {
            let x = rng.normal();
            *v = match self {
                Values::Normal => x,
                Values::Scaled(s) => x * s,
                Values::Mixed => rng.between(-12.0, 12.0).exp2().copysign(x),
                Values::Outlier if (i + row) % 37 == 5 => x * 1000.0,
                Values::Outlier => x,
                Values::Sparse if row % 3 == 1 || !rng.word().is_multiple_of(4) => 0f32.copysign(x),
                Values::Sparse => x,
            };
        }
    }
}
