//! What a stretch of work costs: wall time, and processor time of this whole process.

use std::time::{Duration, Instant};

/// A stretch of work under measurement.
pub struct Stretch {
    wall: Instant,
    cpu: Duration,
}

impl Stretch {
    pub fn begin() -> Self {
        Self { wall: Instant::now(), cpu: cpu() }
    }

    /// Wall time and processor time since the beginning.
    pub fn end(&self) -> (Duration, Duration) {
        (self.wall.elapsed(), cpu() - self.cpu)
    }
}

fn usage() -> libc::rusage {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to a whole rusage, which the call fills; zeroed is a valid one if it fails.
    unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    }
}

fn cpu() -> Duration {
    let usage = usage();
    let time = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
    time(usage.ru_utime) + time(usage.ru_stime)
}

/// The most memory this process has held, in MiB.
pub fn peak_mib() -> f64 {
    usage().ru_maxrss as f64 / 1024.0
}

/// The value in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
