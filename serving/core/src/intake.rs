//! What messages may take while they come, whichever wire they come over: bytes, time and memory.
//!
//! A client that sends at no more than a trickle does not get to hold a request open, and all
//! clients together do not get to fill the machine's memory with what they have sent.

use std::{
    fmt,
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use mizzen_types::{Coded, ErrorCode};

/// Bytes of one message, Triton's default for `--http-max-input-size`.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Bytes of all messages together where nothing else is said: 64 of the largest.
const MEMORY_BYTES_MAX: usize = 4 << 30;

/// How long one may stand still: long enough for a bad line, short enough that slow clients cannot
/// hold connections for good.
const STILL_MAX: Duration = Duration::from_secs(30);

/// How long one may take whatever its rate, so that short ones are not judged by it.
const GRACE_MAX: Duration = Duration::from_secs(30);

/// On average from its beginning: far below any line that tensors are sent over.
const RATE_MIN: u64 = 1024;

/// What messages may take.
#[derive(Debug, Clone)]
pub struct Intake {
    /// Bytes of one, and of what it expands to if it is compressed.
    pub bytes_max: usize,
    /// How fast one must come.
    pub pace: Pace,
    /// Bytes of all together.
    pub memory: Memory,
}

impl Default for Intake {
    fn default() -> Self {
        Self { bytes_max: MESSAGE_BYTES_MAX, pace: Pace::default(), memory: Memory::default() }
    }
}

/// How fast a message must come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// How long it may stand still.
    pub idle: Duration,
    /// How long it may take whatever its rate.
    pub grace: Duration,
    /// Bytes a second, on average from its beginning, that it must come at beyond the grace. 0 is
    /// any.
    pub bytes_per_s: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { idle: STILL_MAX, grace: GRACE_MAX, bytes_per_s: RATE_MIN }
    }
}

impl Pace {
    /// How long to wait for more of a message, of which `received` bytes have come in `elapsed`;
    /// and what to say when that time is over.
    pub fn patience(&self, elapsed: Duration, received: usize) -> (Duration, TooSlow) {
        let earned = match self.bytes_per_s {
            0 => Duration::MAX,
            rate => Duration::from_millis((received as u64).saturating_mul(1000) / rate),
        };
        let left = self.grace.max(earned).saturating_sub(elapsed);
        match left < self.idle {
            true => (left, TooSlow::Trickle { bytes_per_s: self.bytes_per_s }),
            false => (self.idle, TooSlow::Still { idle: self.idle }),
        }
    }
}

/// Why a message is not waited for any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooSlow {
    /// Nothing came.
    #[error("nothing of it came for {} s", idle.as_secs_f32())]
    Still {
        /// For how long.
        idle: Duration,
    },
    /// Too little came.
    #[error("it came at fewer than {bytes_per_s} bytes a second")]
    Trickle {
        /// How many should have.
        bytes_per_s: u64,
    },
}

/// Memory that messages may hold together: from their first byte, for as long as anything views
/// them. Clones share it.
#[derive(Clone)]
pub struct Memory(Arc<Pool>);

struct Pool {
    bytes_max: usize,
    held: AtomicUsize,
}

impl Default for Memory {
    fn default() -> Self {
        Self::new(MEMORY_BYTES_MAX)
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} of {} bytes)", self.held(), self.bytes_max())
    }
}

impl Memory {
    /// So many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self(Arc::new(Pool { bytes_max, held: AtomicUsize::new(0) }))
    }

    /// How many there are.
    pub fn bytes_max(&self) -> usize {
        self.0.bytes_max
    }

    /// How many are taken.
    pub fn held(&self) -> usize {
        self.0.held.load(Relaxed)
    }

    /// A share of none, to grow as a message comes.
    pub fn share(&self) -> Share {
        Share { pool: self.0.clone(), bytes: 0 }
    }
}

/// A message's part of the memory, given back when it is dropped.
pub struct Share {
    pool: Arc<Pool>,
    bytes: usize,
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Share({})", self.bytes)
    }
}

impl Share {
    /// Takes more.
    ///
    /// # Errors
    /// [`Spent`] if there is no more; the share is as it was.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Spent> {
        let bytes_max = self.pool.bytes_max;
        let grown = |held: usize| held.checked_add(bytes).filter(|held| *held <= bytes_max);
        let taken = self.pool.held.fetch_update(Relaxed, Relaxed, grown);
        taken.map_err(|_| Spent { bytes_max })?;
        self.bytes += bytes;
        Ok(())
    }

    /// Bytes that have come, which keep the share for as long as any view of them lives.
    pub fn hold(self, bytes: Bytes) -> Bytes {
        if bytes.is_empty() {
            return bytes;
        }
        Bytes::from_owner(Held { bytes, _share: self })
    }

    /// A reader of what a message expands to, which takes memory as it is read; it fails by
    /// [`Spent`] where there is none.
    pub fn expand<R: Read>(&mut self, reader: R) -> impl Read {
        Expanding { reader, share: self }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.pool.held.fetch_sub(self.bytes, Relaxed);
    }
}

struct Held {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

struct Expanding<'a, R> {
    reader: R,
    share: &'a mut Share,
}

impl<R: Read> Read for Expanding<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(into)?;
        self.share.grow(count).map_err(io::Error::other)?;
        Ok(count)
    }
}

/// There is no memory for more messages now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "requests under way hold all of the {bytes_max} bytes that they may; retry later, or raise `--max-request-memory`"
)]
pub struct Spent {
    /// What they may hold.
    pub bytes_max: usize,
}

impl Spent {
    /// How long to wait before another try: some batches' time.
    pub const RETRY_AFTER: Duration = Duration::from_secs(1);

    /// That it was this which ended a reader's work.
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }
}

impl Coded for Spent {
    fn code(&self) -> ErrorCode {
        ErrorCode::ResourceExhausted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);
    const ZERO: Duration = Duration::ZERO;

    #[test]
    fn a_message_is_waited_for_while_it_comes_fast_enough() {
        let pace = Pace { idle: 10 * S, grace: 30 * S, bytes_per_s: 1000 };
        let (still, trickle) =
            (TooSlow::Still { idle: 10 * S }, TooSlow::Trickle { bytes_per_s: 1000 });
        #[rustfmt::skip]
        let cases = [
            // what the case shows              elapsed    received    want
            ("it may begin late",               ZERO,      0,          (10 * S, still)),
            ("it may stand still for a while",  5 * S,     9,          (10 * S, still)),
            ("the grace ends",                  25 * S,    9,          (5 * S, trickle)),
            ("the grace is over",               31 * S,    9,          (ZERO, trickle)),
            ("it came fast before",             31 * S,    60_000,     (10 * S, still)),
            ("it is as slow as it may be",      55 * S,    60_000,     (5 * S, trickle)),
            ("it is too slow",                  61 * S,    60_000,     (ZERO, trickle)),
        ];
        for (shows, elapsed, received, want) in cases {
            assert_eq!(pace.patience(elapsed, received), want, "{shows}");
        }
        let any = Pace { bytes_per_s: 0, ..pace };
        assert_eq!(any.patience(1_000_000 * S, 1), (10 * S, still));
    }

    #[test]
    fn memory_is_held_for_as_long_as_a_view_lives_and_never_beyond_the_bound() {
        let memory = Memory::new(10);
        let mut share = memory.share();
        share.grow(6).unwrap();
        let mut other = memory.share();
        assert_eq!(other.grow(5), Err(Spent { bytes_max: 10 }));
        other.grow(4).unwrap();
        assert_eq!(other.grow(usize::MAX), Err(Spent { bytes_max: 10 }), "no overflow");
        drop(other);
        let sent = Bytes::from_static(b"hello!");
        let whole = share.hold(sent.clone());
        assert_eq!(whole.as_ptr(), sent.as_ptr(), "no copy");
        let view = whole.slice(2..4);
        drop(whole);
        assert_eq!((memory.held(), &view[..]), (6, &b"ll"[..]));
        drop(view);
        assert_eq!(memory.held(), 0);
    }

    #[test]
    fn what_expands_takes_memory_as_it_does() {
        let memory = Memory::new(10);
        let (mut share, mut text) = (memory.share(), Vec::new());
        let error = share.expand(io::repeat(7).take(1 << 30)).read_to_end(&mut text).unwrap_err();
        assert_eq!(Spent::of(&error), Some(Spent { bytes_max: 10 }));
        assert!(text.capacity() < 1 << 20, "{}", text.capacity());
        share.expand(&b"0123456789"[..]).read_to_end(&mut text).unwrap();
        assert_eq!(memory.held(), 10);
    }
}
