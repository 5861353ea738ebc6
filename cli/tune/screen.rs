//! A block of lines at the end of the terminal that is drawn again and again in its place.
//!
//! A block is written in one piece, each line over the old one and its rest cleared: nothing is taken away
//! before it is replaced, so nothing flickers.

use std::{fmt::Write as _, io::IsTerminal as _};

/// The terminal behind stderr.
pub(super) struct Screen {
    drawn: Vec<String>,
}

impl Screen {
    /// The terminal, if stderr is one that can move its cursor.
    pub(super) fn open() -> Option<Self> {
        let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
        (std::io::stderr().is_terminal() && !dumb).then(|| Self { drawn: Vec::new() })
    }

    /// Columns and rows; 80 by nothing known where the terminal does not say.
    pub(super) fn size(&self) -> (usize, usize) {
        match rustix::termios::tcgetwinsize(std::io::stderr()) {
            Ok(size) if size.ws_col > 0 => (size.ws_col.into(), size.ws_row.into()),
            _ => (80, 0),
        }
    }

    /// Draws lines in place of those drawn before.
    pub(super) fn draw(&mut self, lines: Vec<String>) {
        if lines == self.drawn {
            return;
        }
        let mut text = self.home();
        for line in &lines {
            let _ = writeln!(text, "{line}\x1b[K");
        }
        text.push_str("\x1b[J"); // lines that were more before
        put(&text);
        self.drawn = lines;
    }

    /// Writes a line that stays, above the block.
    pub(super) fn say(&mut self, line: &str) {
        let plain: String = line.chars().filter(|c| !c.is_control()).collect();
        let lines = std::mem::take(&mut self.drawn);
        let mut text = String::new();
        if !lines.is_empty() {
            let _ = write!(text, "\x1b[{}A\r", lines.len());
        }
        let _ = writeln!(text, "{plain}\x1b[K");
        for line in &lines {
            let _ = writeln!(text, "{line}\x1b[K");
        }
        text.push_str("\x1b[J");
        put(&text);
        self.drawn = lines;
    }

    /// Takes the block away.
    pub(super) fn clear(&mut self) {
        put(&format!("{}\x1b[J", self.home()));
        self.drawn.clear();
    }

    /// What moves the cursor to the block's first line.
    fn home(&self) -> String {
        if self.drawn.is_empty() { String::new() } else { format!("\x1b[{}A\r", self.drawn.len()) }
    }
}

fn put(text: &str) {
    use std::io::Write as _;
    let _ = mizzen_telemetry::stderr().write_all(text.as_bytes());
}
