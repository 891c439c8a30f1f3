//! Whether to write in colour: on a terminal only, unless `--color` says otherwise. `NO_COLOR` (set, not
//! empty; no-color.org) is heeded by `auto`, as whoever writes `--color always` means it.

use clap::ColorChoice;
use std::io::{IsTerminal, stderr, stdout};
use std::sync::OnceLock;

static CHOICE: OnceLock<ColorChoice> = OnceLock::new();

/// Remembers what the command line says; before that it is `auto`.
pub fn choose(choice: ColorChoice) {
    // Called once, by main.
    let _ = CHOICE.set(choice);
}

fn wanted(choice: ColorChoice, no_color: bool, terminal: bool) -> bool {
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => terminal && !no_color,
    }
}

fn on(terminal: bool) -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let choice = CHOICE.get().copied().unwrap_or(ColorChoice::Auto);
    wanted(choice, no_color, terminal)
}

fn paint(on: bool, code: &str, text: &str) -> String {
    if on {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// The heading of a table on standard output.
pub fn heading(text: &str) -> String {
    paint(on(stdout().is_terminal()), "1", text)
}

/// What begins an error on standard error.
pub fn error(text: &str) -> String {
    paint(on(stderr().is_terminal()), "1;31", text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_for_terminals_unless_one_says_otherwise() {
        use ColorChoice::{Always, Auto, Never};
        for (choice, no_color, terminal, expected) in [
            (Auto, false, true, true),
            (Auto, false, false, false),
            (Auto, true, true, false),
            (Always, true, false, true),
            (Never, false, true, false),
        ] {
            let got = wanted(choice, no_color, terminal);
            assert_eq!(got, expected, "{choice:?} {no_color} {terminal}");
        }
        assert_eq!(paint(true, "1", "x"), "\x1b[1mx\x1b[0m");
        assert_eq!(paint(false, "1", "x"), "x");
    }
}
