//! What the system says of this process, under the names that all programs use for it.

use std::path::Path;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

fn gauge(registry: &mut Registry, name: &str, help: &str, value: Option<u64>) {
    let Some(value) = value.and_then(|value| i64::try_from(value).ok()) else { return };
    let gauge = Gauge::<i64>::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}

/// Memory and descriptors, where the system tells of them.
pub(super) fn register(registry: &mut Registry, started_unix_s: u64) {
    let resident = resident_bytes();
    gauge(registry, "process_resident_memory_bytes", "Resident memory size in bytes", resident);
    let open = std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as u64);
    gauge(registry, "process_open_fds", "Number of open file descriptors", open);
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).ok();
    let limit = limit.map(|(soft, _)| soft);
    gauge(registry, "process_max_fds", "Maximum number of open file descriptors", limit);
    let help = "Start time of the process since unix epoch in seconds";
    gauge(registry, "process_start_time_seconds", help, Some(started_unix_s));
}

/// The line of `/proc/self/status` counts kilobytes, whatever size a page has.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// Free bytes where the data directory lies, as far as this process may have them.
pub(crate) fn free_bytes(dir: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(dir).ok()?;
    Some(stat.blocks_available() * stat.fragment_size())
}

/// The same as a metric of the server's own.
pub(super) fn register_disk(registry: &mut Registry, dir: &Path) {
    gauge(registry, "data_free_bytes", "Free space where the data directory lies", free_bytes(dir));
}
