//! Randomness and time from the seed, also for code that asks the system for them.
//!
//! `std`'s hash maps, tokio's `select!` and openraft's timeouts take their randomness from the C
//! library's `getrandom`. Here is another function of that name, which the linker prefers: on a thread
//! that was given a seed its bytes follow from the seed, elsewhere they come from the system. So it is
//! with `clock_gettime`, which `std`'s clocks ask.

use rustix::time::{ClockId, Timespec};
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::time::Duration;

thread_local! {
    static SEEDED: Cell<Option<u64>> = const { Cell::new(None) };
    static NOW: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// When a run begins, in seconds since 1970: in 2027. Clocks that count from a start begin there, too.
const BEGIN: Duration = Duration::from_secs(1_800_000_000);

/// From now on everything random on this thread follows from `seed`. For a thread that has just begun.
pub fn seed_thread(seed: u64) {
    SEEDED.set(Some(seed));
    set_time(Duration::ZERO);
}

/// So long after the begin it is on this thread.
pub fn set_time(since_begin: Duration) {
    NOW.set(Some(BEGIN + since_begin));
}

/// # Safety
/// As the C library's: a time may be written at `time`.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: i32, time: *mut Timespec) -> i32 {
    let now = NOW.get().unwrap_or_else(|| {
        let clock = ClockId::try_from(clock).unwrap_or(ClockId::Realtime);
        let now = rustix::time::clock_gettime(clock);
        Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
    });
    let now = Timespec {
        tv_sec: now.as_secs() as i64,
        tv_nsec: now.subsec_nanos().into(),
    };
    // SAFETY: the caller's promise.
    unsafe { time.write(now) };
    0
}

/// # Safety
/// As the C library's: `bytes` bytes at `buffer` may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut MaybeUninit<u8>, bytes: usize, flags: u32) -> isize {
    // SAFETY: the caller's promise.
    let buffer = unsafe { std::slice::from_raw_parts_mut(buffer, bytes) };
    let Some(state) = SEEDED.get() else {
        let flags = rustix::rand::GetRandomFlags::from_bits_retain(flags);
        return rustix::rand::getrandom(buffer, flags)
            .map_or(-1, |(filled, _)| filled.len() as isize);
    };
    let mut random = Random(state);
    for chunk in buffer.chunks_mut(8) {
        for (to, from) in chunk.iter_mut().zip(random.next().to_ne_bytes()) {
            to.write(from);
        }
    }
    SEEDED.set(Some(random.0));
    bytes as isize
}

/// A generator of random numbers (SplitMix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// `purpose` tells generators of one seed apart.
    pub fn new(seed: u64, purpose: u64) -> Random {
        let mut random = Random(seed ^ purpose.wrapping_mul(0xd6e8_feb8_6659_fd93));
        random.next();
        random
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From `0..bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    pub fn one_in(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    /// From `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    pub fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }

    pub fn micros(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_micros(self.between(low, high))
    }
}
