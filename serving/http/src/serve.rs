//! Connections: accepted within bounds, spoken HTTP/1.1 or HTTP/2 as the client does, ended kindly.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderValue, Request, Response, header::CONNECTION};
use http_body::Body;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    at_once::at_once,
    bundled::Bundled,
    clients::{Clients, Visit},
    patient::Patient,
    streams::{Inbox, drive},
};

/// What connections may cost.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once; one more is told 503 and closed. Far above what load tools open, and it
    /// bounds the memory that headers can take.
    pub connections_max: usize,
    /// Connections at once of one client, by its address (of IPv6, the network of 64 bits): one that
    /// opens all it can leaves room for others. A proxy is one client, too.
    pub connections_per_client_max: usize,
    /// How long a client may take to send a request's head, and how long a connection may stand
    /// idle between requests: a client that pools connections comes back sooner, one that trickles
    /// bytes does not get to stay.
    pub header_timeout: Duration,
    /// Headers of one request; hyper's own default, ten times what clients send.
    pub header_count_max: usize,
    /// Bytes of one request's head: room for long paths, tokens and trace headers.
    pub header_bytes_max: usize,
    /// Requests at once on one HTTP/2 connection, so that one client cannot take all that there is.
    pub streams_max: u32,
    /// Requests of one HTTP/2 connection that their client has taken back before they were looked
    /// at; one more ends it, since only an attack sends requests to take them back
    /// (CVE-2023-44487).
    pub resets_pending_max: usize,
    /// Requests of one HTTP/2 connection that the server had to break off because of what their
    /// client sent; one more ends it, for the same reason (CVE-2025-8671).
    pub resets_provoked_max: usize,
    /// How long an answer may stand still because its client does not take it: as long as a request
    /// may.
    pub answer_idle: Duration,
    /// How many connections are open; kept up to date here, for whoever wants to show it.
    pub open: Arc<AtomicUsize>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            connections_per_client_max: 1024,
            header_timeout: Duration::from_secs(60),
            header_count_max: 100,
            header_bytes_max: 64 * 1024,
            streams_max: 256,
            resets_pending_max: 64,
            resets_provoked_max: 64,
            answer_idle: Duration::from_secs(30),
            open: Arc::default(),
        }
    }
}

/// Serves connections in plain text with `handler`; see [`serve_over`].
pub async fn serve<H, F, B>(
    listener: TcpListener,
    limits: Limits,
    handler: H,
    closing: CancellationToken,
) where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let handler = move |request, _: &Arc<SocketAddr>| handler(request);
    serve_over(Plain, listener, limits, handler, closing).await;
}

/// Serves connections over `transport` with `handler`, which also learns who is at the other end,
/// until `closing` is cancelled; then takes no more, lets each finish what it is at, and returns
/// once all have. Dropping the future ends them at once.
pub async fn serve_over<T, H, F, B>(
    transport: T,
    listener: TcpListener,
    limits: Limits,
    handler: H,
    closing: CancellationToken,
) where
    T: Transport,
    H: Fn(Request<Incoming>, &Arc<T::Peer>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let server = Arc::new(Server { transport, limits, handler, closing });
    let permits = Arc::new(Semaphore::new(server.limits.connections_max));
    let clients = Clients::new(server.limits.connections_per_client_max);
    let mut connections = JoinSet::new();
    let mut full = false; // said once each time, however many are refused
    let mut starved = false; // the same
    loop {
        server.limits.open.store(connections.len(), Ordering::Relaxed);
        tokio::select! {
            () = server.closing.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => match admit(&permits, &clients, from) {
                    Ok(admitted) => {
                        (full, starved) = (false, false);
                        let connection = server.clone().connection(stream, from, admitted);
                        connections.spawn(at_once(connection));
                    }
                    Err(refused) => {
                        if !std::mem::replace(&mut full, true) {
                            let (open, reason) = (connections.len(), refused.reason());
                            warn!(open, from = %from.ip(), reason, "refusing connections");
                        }
                        refuse(&stream, refused);
                    }
                },
                Err(error) => pause_after(&error, std::mem::replace(&mut starved, true)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {
        server.limits.open.store(connections.len(), Ordering::Relaxed);
    }
}

/// A connection's place among all and among its client's.
type Admitted = (OwnedSemaphorePermit, Visit);

/// Why there is no room for a connection.
#[derive(Clone, Copy)]
enum Refused {
    Server,
    Client,
}

impl Refused {
    const fn reason(self) -> &'static str {
        match self {
            Self::Server => "the server is out of room",
            Self::Client => "the client has too many connections open",
        }
    }
}

fn admit(
    permits: &Arc<Semaphore>,
    clients: &Arc<Clients>,
    from: SocketAddr,
) -> Result<Admitted, Refused> {
    let visit = clients.enter(from.ip()).ok_or(Refused::Client)?;
    let permit = permits.clone().try_acquire_owned().map_err(|_| Refused::Server)?;
    Ok((permit, visit))
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Bytes a client may send ahead on one HTTP/2 stream: a whole image or a batch of rows, so that the
/// usual request does not wait for a window to open.
const STREAM_WINDOW: u32 = 2 << 20;
/// The same for a connection; it bounds what one client can make the server hold unread.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Larger frames than the default 16 KiB cost large tensors fewer of them.
const FRAME_BYTES_MAX: u32 = 256 << 10;

/// How long a connection that is open when the server closes may still bring a request: one that was on
/// its way would else be lost. Its answer is the connection's last.
const LAST_CALL: Duration = Duration::from_millis(100);

struct Server<T, H> {
    transport: T,
    limits: Limits,
    handler: H,
    closing: CancellationToken,
}

impl<T, H, F, B> Server<T, H>
where
    T: Transport,
    H: Fn(Request<Incoming>, &Arc<T::Peer>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    async fn connection(self: Arc<Self>, stream: TcpStream, from: SocketAddr, _admitted: Admitted) {
        // Answers are small and complete; waiting to fill a packet would only delay them.
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "connection has no delay setting");
        }
        let opening = timeout(self.limits.header_timeout, self.transport.open(stream, from));
        let opened = tokio::select! {
            opened = opening => opened,
            () = self.closing.cancelled() => return, // nothing was asked yet
        };
        let ended = match opened {
            Ok(Ok(Opened { stream, http2: true, peer })) => self.http2(stream, peer).await,
            Ok(Ok(Opened { stream, http2: false, peer })) => self.http1(stream, peer).await,
            Ok(Err(error)) => return debug!(%error, "connection did not open"),
            Err(_) => return, // silent for too long
        };
        if let Err(error) = ended {
            debug!(%error, "connection ended early");
        }
    }

    fn patient(&self, stream: T::Stream) -> Patient<T::Stream> {
        Patient::new(stream, self.limits.answer_idle)
    }

    async fn http1(&self, stream: T::Stream, peer: T::Peer) -> Result<(), hyper::Error> {
        let (handler, peer) = (self.handler.clone(), Arc::new(peer));
        let service = service_fn(move |request| {
            let (answer, closing) = (handler(request, &peer), self.closing.clone());
            async move {
                let mut answer = answer.await;
                if closing.is_cancelled() {
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(answer)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .max_headers(self.limits.header_count_max)
            .max_header_size(self.limits.header_bytes_max)
            .serve_connection(TokioIo::new(self.patient(stream)), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = self.closing.cancelled() => {}
        }
        if let Ok(ended) = timeout(LAST_CALL, connection.as_mut()).await {
            return ended;
        }
        connection.as_mut().graceful_shutdown();
        connection.await
    }

    async fn http2(&self, stream: T::Stream, peer: T::Peer) -> Result<(), hyper::Error> {
        let (handler, peer) = (self.handler.clone(), Arc::new(peer));
        let service = service_fn(move |request| {
            let answer = handler(request, &peer);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let header_bytes = u32::try_from(self.limits.header_bytes_max).unwrap_or(u32::MAX);
        let inbox = Inbox::default();
        let line = Bundled::new(self.patient(stream));
        let connection = http2::Builder::new(inbox.clone())
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.limits.streams_max)
            .max_header_list_size(header_bytes)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_BYTES_MAX)
            .max_pending_accept_reset_streams(self.limits.resets_pending_max)
            .max_local_error_reset_streams(self.limits.resets_provoked_max)
            // A peer that is gone without a word is found out.
            .keep_alive_interval(self.limits.header_timeout)
            .serve_connection(TokioIo::new(line.clone()), service);
        drive(connection, line, inbox, |c| c.graceful_shutdown(), self.closing.clone()).await
    }
}

/// What a connection is before HTTP begins: TCP as it is, or what TLS makes of it.
pub trait Transport: Send + Sync + 'static {
    /// The bytes of HTTP.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;
    /// What is known about the other end.
    type Peer: Send + Sync + 'static;

    /// Opens a connection that was accepted `from` there; the caller bounds how long that takes.
    fn open(
        &self,
        stream: TcpStream,
        from: SocketAddr,
    ) -> impl Future<Output = io::Result<Opened<Self::Stream, Self::Peer>>> + Send;
}

/// A connection on which HTTP may begin.
pub struct Opened<S, P> {
    /// The bytes of HTTP.
    pub stream: S,
    /// Whether they are HTTP/2 rather than HTTP/1.1.
    pub http2: bool,
    /// Who sends them.
    pub peer: P,
}

/// TCP as it is.
pub struct Plain;

impl Transport for Plain {
    type Stream = TcpStream;
    type Peer = SocketAddr;

    async fn open(
        &self,
        stream: TcpStream,
        from: SocketAddr,
    ) -> io::Result<Opened<TcpStream, SocketAddr>> {
        let http2 = speaks_http2(&stream).await?;
        Ok(Opened { stream, http2, peer: from })
    }
}

/// Looks at a connection's first bytes, which stay where they are. HTTP/2 begins with a fixed text;
/// no method of HTTP/1 shares its first three letters.
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut first = [0; PREFACE.len()];
    loop {
        match stream.peek(&mut first).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n if first[..n] != PREFACE[..n] => return Ok(false),
            n if n == PREFACE.len() => return Ok(true),
            // Part of the preface: the socket stays readable, so look again a little later.
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// Tells a client that there is no room. What does not fit the socket's empty buffer is not sent.
fn refuse(stream: &TcpStream, refused: Refused) {
    let body = format!("{{\"error\":\"{}\"}}", refused.reason());
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n\
        content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    if let Err(error) = stream.try_write(answer.as_bytes()) {
        debug!(%error, "connection refused without a word");
    }
}

/// Accepting fails for a moment when file descriptors run out; trying at once would only spin.
async fn pause_after(error: &io::Error, said: bool) {
    if !said {
        warn!(%error, "cannot accept connections; trying again until it works");
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
}
