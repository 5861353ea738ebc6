//! A listener's connections, plain or through TLS, with what is known about who made them.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use mizzen_serving_http::{Opened, Plain, Transport};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use tracing::debug;

use crate::{identity::Identity, tls::Tls};

/// How long a handshake may take, the wait for its turn included: three round trips on a bad line.
pub const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// Handshakes at once over all listeners. Each costs up to some milliseconds of one core, so more
/// at once only make every one slower; the others wait their turn, within the time above.
pub const HANDSHAKES_MAX: usize = 64;

/// Who is at the other end of a connection.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Where it comes from.
    pub(crate) address: SocketAddr,
    /// Who its certificate says it is, where the listener asks for one.
    pub(crate) identity: Option<Identity>,
}

/// A listener's way to open connections.
#[derive(Clone)]
pub(crate) struct Doorway {
    tls: Option<Arc<Tls>>,
    handshakes: Arc<Semaphore>,
}

impl Doorway {
    /// Plain without `tls`. Listeners share the turns at handshakes.
    pub(crate) fn new(tls: Option<Arc<Tls>>, handshakes: Arc<Semaphore>) -> Self {
        Self { tls, handshakes }
    }

    async fn handshake(&self, tls: &Tls, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let whole = async {
            let _turn = self.handshakes.acquire().await.map_err(io::Error::other)?;
            TlsAcceptor::from(tls.config()).accept(stream).await
        };
        let late = || io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long");
        timeout(HANDSHAKE_TIME_MAX, whole).await.unwrap_or_else(|_| Err(late()))
    }
}

impl Transport for Doorway {
    type Stream = Stream;
    type Peer = Peer;

    async fn open(&self, stream: TcpStream, from: SocketAddr) -> io::Result<Opened<Stream, Peer>> {
        let Some(tls) = &self.tls else {
            let Opened { stream, http2, .. } = Plain.open(stream, from).await?;
            let peer = Peer { address: from, identity: None };
            return Ok(Opened { stream: Stream::Plain(stream), http2, peer });
        };
        let stream = self.handshake(tls, stream).await?;
        let (_, session) = stream.get_ref();
        let http2 = tls.speaks.http2(session.alpn_protocol());
        let shown = session.peer_certificates().and_then(<[_]>::first);
        let peer = Peer { address: from, identity: shown.and_then(|c| Identity::of(c)) };
        debug!(from = %peer.address, identity = ?peer.identity, http2, "TLS connection opened");
        Ok(Opened { stream: Stream::Tls(Box::new(stream)), http2, peer })
    }
}

/// The bytes of HTTP.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Does the same with either.
macro_rules! either {
    ($self:expr, $stream:ident => $work:expr) => {
        match $self.get_mut() {
            Stream::Plain(stream) => {
                let $stream = Pin::new(stream);
                $work
            }
            Stream::Tls(stream) => {
                let $stream = Pin::new(stream.as_mut());
                $work
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_shutdown(cx))
    }
}
