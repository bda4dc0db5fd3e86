//! What a process costs, as the kernel counts it, and on what machine.

use std::fs;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use super::BenchError;

/// Reads the kernel's accounts of one process, all its threads together, also those that ended.
#[derive(Debug, Clone, Copy)]
pub struct Meter {
    pid: Pid,
    clock: ClockId,
}

impl Meter {
    /// # Errors
    /// If there is no such process.
    pub fn new(pid: u32) -> Result<Self, BenchError> {
        let pid = Pid::from_raw(pid.cast_signed());
        let clock = ClockId::pid_cpu_clock_id(pid).map_err(BenchError::os("the process's clock"))?;
        Ok(Self { pid, clock })
    }

    /// User and system time so far, in nanoseconds of resolution.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn cpu(&self) -> Result<Duration, BenchError> {
        read_clock(self.clock)
    }

    /// Resident memory, bytes.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn resident_bytes(&self) -> Result<u64, BenchError> {
        self.memory_bytes("VmRSS:")
    }

    /// The part of [`Self::resident_bytes`] that is not pages of files, such as the program's own code: what a server
    /// asked for. Bytes.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn anonymous_bytes(&self) -> Result<u64, BenchError> {
        self.memory_bytes("RssAnon:")
    }

    fn memory_bytes(&self, field: &str) -> Result<u64, BenchError> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))
            .map_err(BenchError::io("the process's memory"))?;
        let kib = status.lines().find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB"));
        kib.and_then(|kib| kib.trim().parse::<u64>().ok())
            .map(|kib| kib * 1024)
            .ok_or_else(|| BenchError::Unexpected("the process has ended: it has no memory".to_owned()))
    }
}

/// What passed between two moments.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lap {
    /// Time.
    pub elapsed: Duration,
    /// What the server's process used meanwhile, if it is known.
    pub server_cpu: Option<Duration>,
    /// What the calling thread used.
    pub own_cpu: Duration,
}

/// Measures a [`Lap`].
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch<'a> {
    server: Option<&'a Meter>,
    begun: Instant,
    server_cpu: Option<Duration>,
    own_cpu: Duration,
}

impl<'a> Stopwatch<'a> {
    /// Begins now.
    ///
    /// # Errors
    /// If the server's process has ended.
    pub fn start(server: Option<&'a Meter>) -> Result<Self, BenchError> {
        let (server_cpu, own_cpu) = (server.map(Meter::cpu).transpose()?, thread_cpu()?);
        Ok(Self { server, begun: Instant::now(), server_cpu, own_cpu })
    }

    /// Ends now, on the same thread.
    ///
    /// # Errors
    /// If the server's process has ended.
    pub fn stop(self) -> Result<Lap, BenchError> {
        let elapsed = self.begun.elapsed();
        let server_cpu = self.server.map(Meter::cpu).transpose()?;
        Ok(Lap {
            elapsed,
            server_cpu: server_cpu.zip(self.server_cpu).map(|(after, before)| after - before),
            own_cpu: thread_cpu()? - self.own_cpu,
        })
    }
}

fn thread_cpu() -> Result<Duration, BenchError> {
    read_clock(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

fn read_clock(clock: ClockId) -> Result<Duration, BenchError> {
    clock_gettime(clock).map(Duration::from).map_err(BenchError::os("a processor clock"))
}

/// Kernel, processor and number of cores, in one line.
#[must_use]
pub fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    let processors = read("/proc/cpuinfo");
    let model = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, model)| model.trim()))
        .unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("Linux {}, {model}, {cores} cores", kernel.trim())
}
