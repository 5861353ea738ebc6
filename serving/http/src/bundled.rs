//! What one turn of an HTTP/2 connection says, in one write; what has come for it, in one read.
//!
//! The codec below writes whenever it has handed over a payload of some hundred bytes, so that an
//! answer and the trailers after it leave in two writes, and wake their client twice. It reads into
//! what is left of a small buffer, so that a message of a few KiB takes two reads. Here short writes
//! are held until the turn is over, and reads take what there is.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Longest write that is held: copying more costs about what a write does.
const HELD_MAX: usize = 16 * 1024;

/// Bytes held at most; the next write waits until they have left.
const ROOM: usize = 64 * 1024;

/// Bytes that a read takes at once: some messages of some KiB, or a frame of the usual length.
const READ_BYTES: usize = 32 * 1024;

thread_local! {
    /// Reads land here first, so that no connection keeps room for them.
    static LANDING: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// A connection's bytes, shared by the codec and by who ends its turns.
pub(crate) struct Bundled<S>(Arc<Mutex<Line<S>>>);

impl<S> Clone for Bundled<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S> Bundled<S> {
    pub(crate) fn new(stream: S) -> Self {
        let (out, came) = Default::default();
        Self(Arc::new(Mutex::new(Line { stream, out, came, written: false, failed: None })))
    }

    fn line(&self) -> MutexGuard<'_, Line<S>> {
        // Only the connection's task takes it, and nothing panics under it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: AsyncWrite + Unpin> Bundled<S> {
    /// Ends a turn: what was written in it leaves, now or when the client takes it. Whether that has
    /// failed just now, so that the codec has to be asked again for it to hear of it.
    pub(crate) fn send(&self, cx: &mut Context<'_>) -> bool {
        let mut line = self.line();
        if line.failed.is_some() {
            return false;
        }
        let sent = line.send(cx);
        if let Poll::Ready(Err(error)) = sent {
            line.failed = Some(error);
        }
        line.failed.is_some()
    }
}

struct Line<S> {
    stream: S,
    out: Held,
    came: Held,
    /// Whether the stream was written to since it was flushed.
    written: bool,
    /// Why the last turn's end failed.
    failed: Option<io::Error>,
}

/// Bytes on their way.
#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    gone: usize,
}

impl Held {
    fn left(&self) -> &[u8] {
        &self.bytes[self.gone..]
    }

    /// So many more have gone. Empty ones keep no memory: most connections rest most of the time.
    fn advance(&mut self, by: usize) {
        self.gone += by;
        if self.left().is_empty() {
            *self = Self::default();
        }
    }
}

impl<S> Line<S> {
    /// What the end of the last turn came to.
    fn check(&mut self) -> io::Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }
}

impl<S: AsyncWrite + Unpin> Line<S> {
    fn send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.left().is_empty() {
            ready!(self.write(cx, &[]))?;
        }
        if self.written {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.written = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what is held and `more` after it, at once; how much of `more` went.
    fn write(&mut self, cx: &mut Context<'_>, more: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let (stream, held) = (Pin::new(&mut self.stream), self.out.left());
        let written = match (held, more) {
            ([], more) => stream.poll_write_vectored(cx, more),
            (held, []) => stream.poll_write(cx, held),
            (held, more) => {
                let all: Vec<_> =
                    std::iter::once(IoSlice::new(held)).chain(more.iter().copied()).collect();
                stream.poll_write_vectored(cx, &all)
            }
        };
        let written = ready!(written)?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.written = true;
        let of_held = written.min(held.len());
        self.out.advance(of_held);
        Poll::Ready(Ok(written - of_held))
    }

    fn take(&mut self, cx: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.check()?;
        let len = bytes.iter().map(|slice| slice.len()).sum();
        if len > HELD_MAX {
            loop {
                let gone = ready!(self.write(cx, bytes))?;
                if gone > 0 {
                    return Poll::Ready(Ok(gone));
                }
            }
        }
        if self.out.left().len() + len > ROOM {
            ready!(self.send(cx))?;
        }
        for slice in bytes {
            self.out.bytes.extend_from_slice(slice);
        }
        Poll::Ready(Ok(len))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bundled<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.line().take(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.line().take(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Leaves it to the end of the turn.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.line().check())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut line = self.line();
        line.check()?;
        ready!(line.send(cx))?;
        Pin::new(&mut line.stream).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bundled<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut line = self.line();
        line.check()?;
        if !line.came.left().is_empty() {
            let fits = line.came.left().len().min(into.remaining());
            into.put_slice(&line.came.left()[..fits]);
            line.came.advance(fits);
            return Poll::Ready(Ok(()));
        }
        if into.remaining() >= READ_BYTES {
            return Pin::new(&mut line.stream).poll_read(cx, into);
        }
        LANDING.with_borrow_mut(|landing| {
            let mut landing = ReadBuf::new(landing);
            ready!(Pin::new(&mut line.stream).poll_read(cx, &mut landing))?;
            let came = landing.filled();
            let (fits, rest) = came.split_at(came.len().min(into.remaining()));
            into.put_slice(fits);
            line.came.bytes.extend_from_slice(rest);
            Poll::Ready(Ok(()))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, task::Waker};

    use proptest::prelude::*;

    use super::*;

    /// A stream that says how it was used.
    #[derive(Default)]
    struct Noted {
        /// What each write took.
        writes: Vec<Vec<u8>>,
        flushes: usize,
        /// How much the next writes take; `None` is not now. All, once this is empty.
        takes: VecDeque<Option<usize>>,
        /// What the next reads bring.
        brings: VecDeque<Vec<u8>>,
        fails: bool,
    }

    impl AsyncWrite for Noted {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            if self.fails {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let mut all: Vec<u8> = bytes.iter().flat_map(|slice| slice.to_vec()).collect();
            match self.takes.pop_front() {
                Some(None) => return Poll::Pending,
                Some(Some(some)) => all.truncate(some),
                None => {}
            }
            let took = all.len();
            self.writes.push(all);
            Poll::Ready(Ok(took))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushes += 1;
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncRead for Noted {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let Some(mut next) = self.brings.pop_front() else { return Poll::Pending };
            let rest = next.split_off(next.len().min(into.remaining()));
            into.put_slice(&next);
            if !rest.is_empty() {
                self.brings.push_front(rest);
            }
            Poll::Ready(Ok(()))
        }
    }

    fn now() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    fn write(bundled: &mut Bundled<Noted>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(bundled).poll_write_vectored(&mut now(), &[IoSlice::new(bytes)])
    }

    fn read(bundled: &mut Bundled<Noted>, most: usize) -> Option<Vec<u8>> {
        let mut room = vec![0; most];
        let mut into = ReadBuf::new(&mut room);
        let read = Pin::new(bundled).poll_read(&mut now(), &mut into);
        read.is_ready().then(|| into.filled().to_vec())
    }

    #[test]
    fn a_turns_short_writes_leave_together_and_a_long_one_takes_them_along() {
        let mut bundled = Bundled::new(Noted::default());
        for part in [&b"head"[..], b"body", b"trailers"] {
            assert!(matches!(write(&mut bundled, part), Poll::Ready(Ok(n)) if n == part.len()));
            assert!(Pin::new(&mut bundled).poll_flush(&mut now()).is_ready());
        }
        assert!(bundled.line().stream.writes.is_empty(), "the turn is not over");
        assert!(!bundled.send(&mut now()));
        assert_eq!(bundled.line().stream.writes, [b"headbodytrailers"]);
        assert_eq!(bundled.line().stream.flushes, 1);
        assert!(!bundled.send(&mut now()));
        assert_eq!(bundled.line().stream.flushes, 1, "there was nothing new");

        let long = vec![7; HELD_MAX + 1];
        assert!(write(&mut bundled, b"head").is_ready());
        assert!(matches!(write(&mut bundled, &long), Poll::Ready(Ok(n)) if n == long.len()));
        assert_eq!(bundled.line().stream.writes[1], [&b"head"[..], &long].concat());
        assert!(!bundled.send(&mut now()));
        assert_eq!(bundled.line().stream.flushes, 2);
        assert_eq!(bundled.line().out.bytes.capacity(), 0, "nothing is kept");
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut bundled = Bundled::new(Noted::default());
        bundled.line().stream.takes = [None; 64].into();
        let part = vec![1; HELD_MAX];
        let taken = (0..32).take_while(|_| write(&mut bundled, &part).is_ready()).count();
        assert_eq!(taken, ROOM / HELD_MAX);
    }

    #[test]
    fn a_write_that_fails_at_a_turns_end_is_heard_of() {
        let mut bundled = Bundled::new(Noted { fails: true, ..Noted::default() });
        assert!(write(&mut bundled, b"answer").is_ready());
        assert!(bundled.send(&mut now()));
        let Poll::Ready(Err(error)) = Pin::new(&mut bundled).poll_flush(&mut now()) else {
            panic!("the codec is told");
        };
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn nothing_is_lost_when_the_connection_is_shut() {
        let mut bundled = Bundled::new(Noted::default());
        assert!(write(&mut bundled, b"last words").is_ready());
        assert!(Pin::new(&mut bundled).poll_shutdown(&mut now()).is_ready());
        assert_eq!(bundled.line().stream.writes, [b"last words"]);
    }

    #[test]
    fn a_read_takes_what_there_is_and_gives_what_is_asked_for() {
        let mut bundled = Bundled::new(Noted::default());
        bundled.line().stream.brings = [b"one and two".to_vec(), vec![3; 2 * READ_BYTES]].into();
        assert_eq!(read(&mut bundled, 3).unwrap(), b"one");
        assert_eq!(bundled.line().stream.brings.len(), 1, "it was all read at once");
        assert_eq!(read(&mut bundled, 5).unwrap(), b" and ");
        assert_eq!(read(&mut bundled, 100).unwrap(), b"two");
        assert_eq!(
            read(&mut bundled, 2 * READ_BYTES).unwrap().len(),
            2 * READ_BYTES,
            "not by way of here"
        );
        assert_eq!(read(&mut bundled, 100), None);
    }

    proptest! {
        #[test]
        fn bytes_keep_their_order_whatever_the_stream_takes(
            parts in prop::collection::vec((0..40_000usize, any::<bool>()), 1..20),
            takes in prop::collection::vec(prop::option::of(1..50_000usize), 0..40),
        ) {
            let mut bundled = Bundled::new(Noted { takes: takes.into(), ..Noted::default() });
            let mut want = Vec::new();
            for (n, (len, ends)) in parts.into_iter().enumerate() {
                let part: Vec<u8> = (0..len).map(|i| (n * 31 + i) as u8).collect();
                let mut from = 0;
                while from < part.len() {
                    if let Poll::Ready(took) = write(&mut bundled, &part[from..]) {
                        from += took.unwrap();
                    }
                }
                want.extend(part);
                if ends {
                    prop_assert!(!bundled.send(&mut now()));
                }
            }
            while !bundled.line().out.left().is_empty() {
                bundled.send(&mut now());
            }
            prop_assert_eq!(bundled.line().stream.writes.concat(), want);
        }
    }
}
