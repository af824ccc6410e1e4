//! The process as its operating system sees it (proc(5)), under the names that Prometheus's client libraries give it.
//! Systems without `/proc` have less of it.

use std::time::{Duration, SystemTime};

use prometheus::proto::{MetricFamily, MetricType};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::families::{family, value};

/// This process.
#[derive(Debug)]
pub(super) struct Process {
    /// Since 1970, as far as is known here.
    started: Duration,
}

impl Process {
    /// One that starts now.
    pub(super) fn starting() -> Self {
        Self { started: SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default() }
    }

    /// Its figures now.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    pub(super) fn families(&self) -> Vec<MetricFamily> {
        let mut families = Vec::new();
        let mut put = |name, help, kind, number| families.push(family(name, help, kind, vec![value(kind, number)]));
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
        let help = "Total user and system CPU time spent in seconds.";
        put("process_cpu_seconds_total", help, MetricType::COUNTER, cpu);
        let gauge = MetricType::GAUGE;
        let help = "Start time of the process since unix epoch in seconds.";
        put("process_start_time_seconds", help, gauge, self.started.as_secs_f64());
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        for (key, name, help, unit) in [
            ("Threads", "process_threads", "Number of OS threads in the process.", 1.0),
            ("VmSize", "process_virtual_memory_bytes", "Virtual memory size in bytes.", 1024.0),
            ("VmRSS", "process_resident_memory_bytes", "Resident memory size in bytes.", 1024.0),
        ] {
            if let Some(count) = field(&status, key) {
                put(name, help, gauge, count as f64 * unit);
            }
        }
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            // One of them is that of the directory itself.
            put("process_open_fds", "Number of open file descriptors.", gauge, open.count().saturating_sub(1) as f64);
        }
        if let Some(max) = getrlimit(Resource::Nofile).current {
            put("process_max_fds", "Maximum number of open file descriptors.", gauge, max as f64);
        }
        families
    }
}

/// A number in `/proc/self/status`; memory is in units of 1,024 bytes there.
fn field(status: &str, key: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    value.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let status = "Name:\tThreads: 9\nVmSizeX:\t1 kB\nVmSize:\t    4096 kB\nThreads:\t5\n";
        assert_eq!(
            [field(status, "VmSize"), field(status, "Threads"), field(status, "Vm")],
            [Some(4096), Some(5), None]
        );
    }

    #[test]
    fn this_process_is_what_it_is() {
        let families = Process::starting().families();
        let figure = |name: &str| {
            let family = families.iter().find(|family| family.name() == name).unwrap_or_else(|| panic!("no {name}"));
            let metric = &family.get_metric()[0];
            let is_counter = family.get_field_type() == MetricType::COUNTER;
            if is_counter { metric.get_counter().get_value() } else { metric.get_gauge().get_value() }
        };
        assert!((1e-6..1e5).contains(&figure("process_cpu_seconds_total")));
        assert!(figure("process_threads") >= 2.0, "the test's and that of all tests");
        assert!(figure("process_open_fds") >= 3.0 && figure("process_open_fds") < figure("process_max_fds"));
        assert!((1e6..1e11).contains(&figure("process_resident_memory_bytes")));
        assert!(figure("process_virtual_memory_bytes") > figure("process_resident_memory_bytes"));
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        // All tests of a busy machine take a while.
        let ran = now - figure("process_start_time_seconds");
        assert!((-1.0..3600.0).contains(&ran), "{ran}");
    }
}
