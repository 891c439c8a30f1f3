//! A wall clock of its own for each broker, set forward and back under it by `libfaketime`.
//!
//! The library is loaded before the broker and reads a file that says how far its clock is off; it looks at the
//! file once a second. The monotonic clock and the times of files stay true.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Where Debian and others put the library for programs with threads.
const FOLDERS: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime",
    "/usr/lib/aarch64-linux-gnu/faketime",
    "/usr/lib64/faketime",
    "/usr/lib/faketime",
];
const LIBRARY: &str = "libfaketimeMT.so.1";

/// The clock of one broker.
pub struct Clock {
    library: PathBuf,
    file: PathBuf,
}

impl Clock {
    /// The library that moves clocks.
    ///
    /// # Errors
    /// Where it is not installed.
    pub fn library() -> Result<PathBuf> {
        let mut places = FOLDERS.iter().map(|folder| Path::new(folder).join(LIBRARY));
        match places.find(|path| path.exists()) {
            Some(library) => Ok(library),
            None => bail!("libfaketime is not installed (Debian: apt install libfaketime)"),
        }
    }

    /// A clock that is right, told by `file`.
    ///
    /// # Errors
    /// Without the library, or when the file cannot be written.
    pub fn create(file: PathBuf) -> Result<Self> {
        let clock = Self {
            library: Self::library()?,
            file,
        };
        clock.set(0)?;
        Ok(clock)
    }

    /// The broker's clock is this many seconds off from now on.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set(&self, seconds: i64) -> Result<()> {
        // Never half a number for the broker to read.
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{seconds:+}\n"))
            .and_then(|()| fs::rename(&new, &self.file))
            .context("set a broker's clock")
    }

    /// What a program has to find in its environment to live by this clock, as arguments of `env`.
    #[must_use]
    pub fn environment(&self) -> Vec<OsString> {
        let with = |name: &str, value: &Path| {
            let mut variable = OsString::from(name);
            variable.push("=");
            variable.push(value);
            variable
        };
        vec![
            with("LD_PRELOAD", &self.library),
            with("FAKETIME_TIMESTAMP_FILE", &self.file),
            OsString::from("FAKETIME_CACHE_DURATION=1"),
            // By its old and its new name.
            OsString::from("DONT_FAKE_MONOTONIC=1"),
            OsString::from("FAKETIME_DONT_FAKE_MONOTONIC=1"),
            OsString::from("NO_FAKE_STAT=1"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// What `date` says with these arguments of `env`.
    fn seconds(environment: &[OsString]) -> i64 {
        let mut date = Command::new("env");
        let said = date.args(environment).args(["date", "+%s"]).output();
        let said = String::from_utf8(said.expect("date").stdout).expect("text");
        said.trim().parse().expect("seconds")
    }

    #[test]
    fn a_program_lives_by_the_clock_it_is_given() {
        if let Err(error) = Clock::library() {
            eprintln!("skipped: {error}");
            return;
        }
        let dir = tempfile::tempdir().expect("a folder");
        let clock = Clock::create(dir.path().join("clock")).expect("a clock");
        for off in [0, 3600, -3600] {
            clock.set(off).expect("set");
            let is = seconds(&clock.environment()) - seconds(&[]);
            assert!((is - off).abs() <= 2, "{is} seconds off, set to {off}");
        }
    }
}
