//! Strategic merge patch and server-side apply. JSON patch and merge patch are `json-patch`'s.

pub(crate) mod apply;
pub(crate) mod fields;
pub(crate) mod keys;
pub(crate) mod managed;
pub(crate) mod strategic;
