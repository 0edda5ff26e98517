//! How many threads pay.

use std::collections::BTreeSet;

/// Physical cores that this process may use; logical ones where the system does not tell.
pub(crate) fn default_threads() -> usize {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    physical_cores().map_or(available, |cores| cores.min(available)).max(1)
}

/// Linux lists the hardware threads of each core; a core counts once.
fn physical_cores() -> Option<usize> {
    let mut cores = BTreeSet::new();
    for cpu in std::fs::read_dir("/sys/devices/system/cpu").ok()?.flatten() {
        let siblings = cpu.path().join("topology/thread_siblings_list");
        if let Ok(list) = std::fs::read_to_string(siblings) {
            cores.insert(list);
        }
    }
    (!cores.is_empty()).then_some(cores.len())
}
