//! V1, as TensorFlow Serving and KServe have it: predict on plain JSON, status and metadata.
//!
//! Inputs come by row (`instances`) or by column (`inputs`) and the answer goes out the same way
//! (`predictions`, `outputs`). Datatypes are the model's. Bodies of the status call hold what either
//! server's clients look for.

mod metadata;
mod request;
mod response;
mod status;

pub(crate) use metadata::{Metadata, metadata};
pub(crate) use request::{Predict, parse};
pub(crate) use response::{Predicted, write};
pub(crate) use status::{Models, Status, models, status};

/// The one signature there is.
const SIGNATURE: &str = "serving_default";

/// How an answer goes out: as its request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    Rows(usize),
    Columns,
}
