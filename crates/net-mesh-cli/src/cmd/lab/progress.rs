//! A line on stderr that says what the lab is doing: rewritten in a terminal, one per phase elsewhere.

use std::io::{IsTerminal as _, Write as _};

/// Back to the start of the line, and clear it (ECMA-48 EL).
const REWRITE: &str = "\r\x1b[2K";

pub(super) struct Progress {
    terminal: bool,
    phase: &'static str,
    shown: String,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), phase: "", shown: String::new() }
    }

    /// Says that `phase` is under way, and how far it is.
    pub(super) fn show(&mut self, phase: &'static str, how_far: &str) {
        let text = format!("lab: {phase}{how_far}");
        if self.terminal && text != self.shown {
            print(&format!("{REWRITE}{text}"));
            self.shown = text;
        } else if !self.terminal && phase != self.phase {
            print(&format!("lab: {phase}\n"));
        }
        self.phase = phase;
    }

    /// Clears the line for what comes next.
    pub(super) fn end(&mut self) {
        if self.terminal {
            print(REWRITE);
        }
    }
}

fn print(text: &str) {
    // Nobody has to watch.
    let _ = std::io::stderr().write_all(text.as_bytes());
}
