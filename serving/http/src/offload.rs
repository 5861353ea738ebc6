//! Work that takes long, away from the threads that serve connections.

use crate::error::HttpError;

/// JSON above this is read and written on the blocking pool: at a few hundred MB/s it is about half
/// a millisecond, beyond which the other connections of the thread would notice.
const OFFLOAD_BYTES: usize = 128 * 1024;

/// Runs work on the blocking pool where it takes as long as so much JSON, else right here.
pub(crate) async fn offload<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> Result<T, HttpError> + Send + 'static,
) -> Result<T, HttpError> {
    if bytes <= OFFLOAD_BYTES {
        return work();
    }
    tokio::task::spawn_blocking(work).await.map_err(HttpError::Task)?
}
