//! The socket: accepts connections until told to stop, then lets them finish.

use std::{convert::Infallible, time::Duration};

use http::Request;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::guard;
use crate::{ApiError, server::Server};

/// How long open requests may take after the stop: watches end at once, so only writes remain.
const DRAIN: Duration = Duration::from_secs(5);

/// After a failed accept (out of file descriptors): long enough for some to be closed.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Serves until `shutdown` resolves, then drains.
pub(crate) async fn serve(
    server: Server,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ApiError> {
    let loopback = listener.local_addr()?.ip().is_loopback();
    let stopping = CancellationToken::new();
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().max_buf_size(64 << 10); // head and buffered body; Go's clients send < 8 KiB
    builder.http2().max_header_list_size(64 << 10);
    let graceful = GracefulShutdown::new();
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(error = %error, "connection not accepted");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true); // watch events are small and must not wait for an ACK
        let (server, ending) = (server.clone(), stopping.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            let server = server.clone();
            request.extensions_mut().insert(Stopping(ending.clone()));
            async move {
                Ok::<_, Infallible>(match guard::check(&request, loopback) {
                    Ok(()) => server.handle(request).await,
                    Err(error) => super::error(&error),
                })
            }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %error, "connection ended");
            }
        });
    }
    drop(listener);
    stopping.cancel();
    let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
    Ok(())
}

/// Put into each request of a socket: cancelled when the socket closes, so that streams end.
#[derive(Clone)]
pub(crate) struct Stopping(pub(crate) CancellationToken);
