//! Texts that a model is asked with.

use mizzen_serving_http::fuzzing;

use crate::bounded::bounded;

/// The texts of a request for embeddings.
pub(crate) fn texts(data: &[u8]) -> bool {
    let Ok(lengths) = bounded(data.len(), || fuzzing::texts(data)) else { return false };
    assert!(!lengths.is_empty(), "there is something to embed, or an error");
    assert!(lengths.len() + lengths.iter().sum::<usize>() <= data.len(), "more than was sent");
    true
}
