//! A line on standard error that is written over, for a person who watches.

use std::io::IsTerminal;

/// Shows something only where standard error is a terminal.
#[derive(Debug, Default)]
pub struct ProgressLine {
    shown: bool,
}

impl ProgressLine {
    pub fn new() -> ProgressLine {
        ProgressLine {
            shown: std::io::stderr().is_terminal(),
        }
    }

    pub fn show(&self, text: &str) {
        if self.shown {
            eprint!("\r{text:<79.79}\r");
        }
    }

    /// Takes the line away.
    pub fn clear(&self) {
        self.show("");
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.clear();
    }
}
