//! Which core something runs on, and how much processor time it has used.

use std::time::Duration;

use libc::{clockid_t, pid_t};

/// How many cores this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Keeps the calling thread, and what it starts, on one core, where there are several.
pub fn stay_on(core: usize) {
    if cores() < 2 {
        return;
    }
    // SAFETY: a set of cores is plain data for which zero bytes mean the empty set; the call reads it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

/// The processor time of a thread or a process.
#[derive(Clone, Copy)]
pub struct Clock(clockid_t);

impl Clock {
    /// That of the calling thread.
    pub fn of_this_thread() -> Self {
        let mut clock = 0;
        // SAFETY: the thread exists, for it is the one that asks; the pointer is to a local.
        unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) };
        Self(clock)
    }

    /// That of a process.
    pub fn of_process(process: u32) -> Self {
        let mut clock = 0;
        // SAFETY: the pointer is to a local; a process that is gone gives an error and leaves 0.
        unsafe { libc::clock_getcpuclockid(process as pid_t, &raw mut clock) };
        Self(clock)
    }

    pub fn now(self) -> Duration {
        // SAFETY: plain data, which the call fills; the pointer is to a local.
        let time = unsafe {
            let mut time: libc::timespec = std::mem::zeroed();
            libc::clock_gettime(self.0, &raw mut time);
            time
        };
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }
}
