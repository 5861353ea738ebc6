//! Where lines of the log go: to stderr as long as it takes them, and past it when it does not.
//!
//! A full disk or a stuck reader behind stderr is no reason to stop serving, nor to wait. A line is
//! written where it is logged, so that the last words before a crash are there; when stderr would
//! block, lines wait in memory, up to a bound, and a thread writes them as there is room. What is
//! lost is counted, and said once stderr takes lines again.

use std::{
    borrow::Cow,
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// Bytes of lines that wait for a stderr which is slow: some seconds of a busy log.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// The most that is written to a pipe at a time: POSIX has it either whole or not at all, and a pipe
/// that is ready has room for it.
const PIECE: usize = 4096;

/// What takes lines in the end.
pub(crate) trait Out: Send + Sync + 'static {
    /// Whether a piece can be written now without waiting.
    fn ready(&self) -> bool;
    /// Writes some of it, and may wait for room.
    fn write(&self, bytes: &[u8]) -> io::Result<usize>;
}

/// The process's stderr.
pub(crate) struct Stderr;

impl Out for Stderr {
    fn ready(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let stderr = io::stderr();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut fds = [PollFd::new(&stderr, PollFlags::OUT)];
        // Where asking fails there is nothing that could block; writing says what is wrong.
        poll(&mut fds, Some(&now)).map_or(true, |ready| ready > 0)
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        io::stderr().write(bytes)
    }
}

/// Takes lines whole, never fails and never waits; clones share it.
#[derive(Clone)]
pub(crate) struct Sink(Arc<Inner>);

struct Inner {
    out: Box<dyn Out>,
    state: Mutex<State>,
    drained: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// Whether a thread is at work on what waits.
    draining: bool,
    /// Lines lost since it was last said, and ever.
    unsaid: u64,
    lost: u64,
}

impl State {
    fn lose(&mut self, lines: u64) {
        self.unsaid += lines;
        self.lost += lines;
    }
}

impl Sink {
    pub(crate) fn new(out: impl Out) -> Self {
        let (state, drained) = (Mutex::default(), Condvar::new());
        Self(Arc::new(Inner { out: Box::new(out), state, drained }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lines that nobody will read, since the start.
    pub(crate) fn lost(&self) -> u64 {
        self.state().lost
    }

    /// Waits until everything is written or lost, but no longer than this.
    pub(crate) fn flush(&self, patience: Duration) {
        let waits = |state: &mut State| state.draining;
        // Either is the end of it.
        let _ = self.0.drained.wait_timeout_while(self.state(), patience, waits);
    }

    /// Takes a line.
    pub(crate) fn line(&self, line: &[u8]) {
        let mut state = self.state();
        if state.draining {
            return wait_in_line(&mut state, line);
        }
        if state.unsaid > 0 && self.0.out.ready() {
            let words = said_lost(state.unsaid);
            if self.write_all(words.as_bytes()).is_ok() {
                state.unsaid = 0;
            }
        }
        match self.write_ready(line) {
            Ok([]) => {}
            Ok(rest) => {
                wait_in_line(&mut state, rest);
                if !state.waiting.is_empty() {
                    self.drain(&mut state);
                }
            }
            Err(_) => state.lose(1),
        }
    }

    /// Writes for as long as that takes no waiting; gives what is left.
    fn write_ready<'a>(&self, mut line: &'a [u8]) -> io::Result<&'a [u8]> {
        while !line.is_empty() && self.0.out.ready() {
            line = &line[self.write_some(&line[..line.len().min(PIECE)])?..];
        }
        Ok(line)
    }

    fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            bytes = &bytes[self.write_some(&bytes[..bytes.len().min(PIECE)])?..];
        }
        Ok(())
    }

    fn write_some(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.out.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Has a thread write what waits; what comes meanwhile waits behind it.
    fn drain(&self, state: &mut State) {
        let sink = self.clone();
        let thread = thread::Builder::new().name("log".to_owned());
        state.draining = thread.spawn(move || sink.drain_all()).is_ok();
        if !state.draining {
            let waiting = std::mem::take(&mut state.waiting);
            state.lose(lines(&waiting));
        }
    }

    fn drain_all(&self) {
        loop {
            let mut state = self.state();
            if state.waiting.is_empty() {
                state.draining = false;
                drop(state);
                return self.0.drained.notify_all();
            }
            let mut taken = std::mem::take(&mut state.waiting);
            let unsaid = state.unsaid;
            drop(state);
            // It waited before anything was lost.
            if unsaid > 0 {
                taken.extend_from_slice(said_lost(unsaid).as_bytes());
            }
            let written = self.write_all(&taken);
            let mut state = self.state();
            match written {
                Ok(()) => state.unsaid -= unsaid,
                Err(_) => state.lose(lines(&taken)),
            }
        }
    }
}

/// What is written in one call is a line.
impl Write for Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A writer of events, each given whole and ending in a line break, as a line each: names that
/// clients chose cannot begin a line of their own or steer a terminal.
pub(crate) struct Events {
    pub(crate) sink: Sink,
    /// Whether escape characters stay: they are the formatter's own, which escapes those that are
    /// not.
    pub(crate) colours: bool,
}

impl Write for Events {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.sink.line(&one_line(event, self.colours));
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The event with control characters escaped but for the line break at its end.
fn one_line(event: &[u8], colours: bool) -> Cow<'_, [u8]> {
    let text = event.strip_suffix(b"\n").unwrap_or(event);
    let odd = |byte: &u8| byte.is_ascii_control() && !(colours && *byte == b'\x1b');
    if !text.iter().any(odd) {
        return Cow::Borrowed(event);
    }
    let mut line = Vec::with_capacity(event.len() + 16);
    for byte in text {
        match odd(byte) {
            true => line.extend(byte.escape_ascii()),
            false => line.push(*byte),
        }
    }
    line.extend(&event[text.len()..]);
    Cow::Owned(line)
}

fn wait_in_line(state: &mut State, line: &[u8]) {
    match state.waiting.len() + line.len() <= WAITING_BYTES_MAX {
        true => state.waiting.extend_from_slice(line),
        false => state.lose(1),
    }
}

fn lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// Plain words on a line of their own, since they are about the log itself.
fn said_lost(lines: u64) -> String {
    format!("{lines} lines of the log were lost: stderr did not take them\n")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// Something that may be broken, or stuck until it is told otherwise.
    #[derive(Default)]
    struct Fake {
        broken: AtomicBool,
        stuck: Mutex<bool>,
        moved: Condvar,
        text: Mutex<String>,
    }

    impl Fake {
        fn set_stuck(&self, stuck: bool) {
            *self.stuck.lock().unwrap() = stuck;
            self.moved.notify_all();
        }

        fn text(&self) -> String {
            self.text.lock().unwrap().clone()
        }
    }

    impl Out for Arc<Fake> {
        fn ready(&self) -> bool {
            !*self.stuck.lock().unwrap()
        }

        fn write(&self, bytes: &[u8]) -> io::Result<usize> {
            let stuck = self.stuck.lock().unwrap();
            drop(self.moved.wait_while(stuck, |stuck| *stuck).unwrap());
            if self.broken.load(SeqCst) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.text.lock().unwrap().push_str(std::str::from_utf8(bytes).unwrap());
            Ok(bytes.len())
        }
    }

    #[test]
    fn a_broken_stderr_loses_lines_and_says_so_when_it_is_mended() {
        let fake = Arc::new(Fake::default());
        let sink = Sink::new(fake.clone());
        sink.line(b"one\n");
        fake.broken.store(true, SeqCst);
        sink.line(b"two\n");
        sink.line(b"three\n");
        assert_eq!((sink.lost(), fake.text()), (2, "one\n".to_owned()));
        fake.broken.store(false, SeqCst);
        sink.line(b"four\n");
        sink.line(b"five\n");
        assert_eq!(fake.text(), format!("one\n{}four\nfive\n", said_lost(2)));
        assert_eq!(sink.lost(), 2, "what is lost stays so");
    }

    #[test]
    fn a_stuck_stderr_keeps_nobody_waiting_and_gets_its_lines_later() {
        let fake = Arc::new(Fake::default());
        let sink = Sink::new(fake.clone());
        fake.set_stuck(true);
        sink.line(b"one\n");
        sink.line(b"two\n");
        sink.flush(Duration::from_millis(1)); // comes back although nothing moves
        assert_eq!((sink.lost(), fake.text()), (0, String::new()));
        fake.set_stuck(false);
        sink.flush(LONG);
        sink.line(b"three\n");
        assert_eq!(fake.text(), "one\ntwo\nthree\n");
    }

    #[test]
    fn what_waits_is_bounded() {
        let fake = Arc::new(Fake::default());
        let sink = Sink::new(fake.clone());
        fake.set_stuck(true);
        let line = [&vec![b'x'; 1023][..], b"\n"].concat();
        // A thread may have taken what waited at its first look, so that as much fits again.
        (0..4 * WAITING_BYTES_MAX / line.len()).for_each(|_| sink.line(&line));
        let lost = sink.lost();
        let (all, room) = (4096, 1024);
        assert!((all - 2 * room..=all - room).contains(&lost), "{lost}");
        fake.set_stuck(false);
        sink.flush(LONG);
        let text = fake.text();
        // Said once, or twice if the thread came by in between; each time of what was not said yet.
        let said = text.lines().filter_map(|line| line.split_once(" lines of the log were lost"));
        let said: u64 = said.filter_map(|(count, _)| count.parse::<u64>().ok()).sum();
        assert_eq!(said, lost, "{}", text.len());
        assert_eq!(text.lines().filter(|line| line.starts_with('x')).count() as u64, all - lost);
    }

    #[test]
    fn a_line_longer_than_a_pipe_has_room_for_is_whole() {
        let fake = Arc::new(Fake::default());
        let sink = Sink::new(fake.clone());
        let long = format!("{}\n", "é".repeat(PIECE)); // pieces end between characters
        sink.line(long.as_bytes());
        assert_eq!(fake.text(), long);
    }

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        let check = |event: &str, colours, want: &str| {
            let fake = Arc::new(Fake::default());
            let mut events = Events { sink: Sink::new(fake.clone()), colours };
            events.write_all(event.as_bytes()).unwrap();
            assert_eq!(fake.text(), want);
        };
        check("info model=é\n", false, "info model=é\n");
        check("a\nb\r\x1b[31m\x7f\n", false, "a\\nb\\r\\x1b[31m\\x7f\n");
        check("\x1b[31ma\tb\x1b[0m\n", true, "\x1b[31ma\\tb\x1b[0m\n");
    }
}
