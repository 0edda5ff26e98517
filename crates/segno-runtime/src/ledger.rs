//! Every byte, by tier and purpose. Refuses before anything is allocated.

use std::fmt;

/// Where bytes lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// The device's memory (the host's, for the CPU).
    Device,
    /// The host's memory.
    Host,
    /// The mapped model file: read in place, given back by the system when memory is short.
    Mapped,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tier::Device => "device",
            Tier::Host => "host",
            Tier::Mapped => "mapped file",
        })
    }
}

/// One line of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where.
    pub tier: Tier,
    /// What for.
    pub purpose: &'static str,
    /// How much.
    pub bytes: u64,
}

/// A plan that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{purpose} needs {bytes} bytes, but {left} of {limit} bytes are left on the {tier}; {hint}")]
pub struct LedgerError {
    /// What for.
    pub purpose: &'static str,
    /// Bytes asked for.
    pub bytes: u64,
    /// Bytes left.
    pub left: u64,
    /// The tier's limit.
    pub limit: u64,
    /// Where.
    pub tier: Tier,
    /// The flag that would help.
    pub hint: &'static str,
}

/// The memory plan of a loaded model.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    device_limit: Option<u64>,
    host_limit: Option<u64>,
    entries: Vec<Entry>,
}

impl Ledger {
    /// A ledger that refuses more than so many bytes on the device and of the host's; `None`: no limit known.
    pub fn new(device_limit: Option<u64>, host_limit: Option<u64>) -> Self {
        Ledger { device_limit, host_limit, entries: Vec::new() }
    }

    /// Approves `bytes` for `purpose`, or refuses and names the flag that would help.
    pub fn approve(
        &mut self,
        tier: Tier,
        purpose: &'static str,
        bytes: u64,
        hint: &'static str,
    ) -> Result<(), LedgerError> {
        let limit = match tier {
            Tier::Device => self.device_limit,
            Tier::Host => self.host_limit,
            Tier::Mapped => None,
        };
        if let Some(limit) = limit {
            let left = limit.saturating_sub(self.total(tier));
            if bytes > left {
                return Err(LedgerError { purpose, bytes, left, limit, tier, hint });
            }
        }
        match self.entries.iter_mut().find(|e| e.tier == tier && e.purpose == purpose) {
            Some(entry) => entry.bytes += bytes,
            None => self.entries.push(Entry { tier, purpose, bytes }),
        }
        Ok(())
    }

    /// The lines, in order of approval.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Sum of a tier.
    pub fn total(&self, tier: Tier) -> u64 {
        self.entries.iter().filter(|e| e.tier == tier).map(|e| e.bytes).sum()
    }

    /// Bytes approved for a purpose.
    pub fn bytes(&self, purpose: &str) -> u64 {
        self.entries.iter().filter(|e| e.purpose == purpose).map(|e| e.bytes).sum()
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for entry in &self.entries {
            writeln!(f, "{:>10.1} MiB  {} ({})", entry.bytes as f64 / 1048576.0, entry.purpose, entry.tier)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_does_not_fit_and_names_the_flag() {
        let mut ledger = Ledger::new(Some(100), Some(10));
        ledger.approve(Tier::Device, "weights", 60, "use a smaller model").unwrap();
        ledger.approve(Tier::Mapped, "weights in place", 1000, "").unwrap();
        let error = ledger.approve(Tier::Device, "keys and values", 41, "lower -c").unwrap_err();
        assert_eq!((error.left, error.limit), (40, 100));
        assert!(error.to_string().contains("lower -c"), "{error}");
        ledger.approve(Tier::Device, "keys and values", 40, "lower -c").unwrap();
        assert_eq!(ledger.total(Tier::Device), 100);
        let error = ledger.approve(Tier::Host, "checkpoints", 11, "lower --checkpoint-ram").unwrap_err();
        assert_eq!((error.left, error.tier), (10, Tier::Host));
    }
}
