//! Devices for tests: one that is right, and others that are wrong in one way each.

pub mod broken;
pub mod oracle;
