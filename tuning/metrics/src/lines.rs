//! Cuts a stream of bytes into lines, within bounded memory.

/// The most bytes of one line that are read; what follows, up to the line's end, is dropped.
///
/// A megabyte is far beyond any line a person or a logger writes, and small beside a trial.
pub const LINE_BYTES_MAX: usize = 1 << 20;

/// The line that is being received.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    partial: Vec<u8>,
    /// Whether bytes of the current line were dropped.
    cut: bool,
}

/// A whole line without its end, and whether it was cut short.
pub(crate) struct Line<'a> {
    pub(crate) text: std::borrow::Cow<'a, str>,
    pub(crate) cut: bool,
}

impl Lines {
    /// Takes the next bytes and hands over every line that they complete. `\n` and `\r` both end a
    /// line; empty lines are not handed over. Bytes that are no UTF-8 become U+FFFD.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut line: impl FnMut(Line<'_>)) {
        while let Some(end) = bytes.iter().position(|b| matches!(b, b'\n' | b'\r')) {
            self.append(&bytes[..end]);
            self.finish(&mut line);
            bytes = &bytes[end + 1..];
        }
        self.append(bytes);
    }

    /// Hands over the last line, if it did not end.
    pub(crate) fn finish(&mut self, mut line: impl FnMut(Line<'_>)) {
        if !self.partial.is_empty() {
            line(Line { text: String::from_utf8_lossy(&self.partial), cut: self.cut });
        }
        self.partial.clear();
        self.cut = false;
    }

    fn append(&mut self, bytes: &[u8]) {
        let room = LINE_BYTES_MAX - self.partial.len();
        self.partial.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.cut |= bytes.len() > room;
    }
}
