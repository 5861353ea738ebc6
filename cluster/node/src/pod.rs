//! The Pod runner: from a Pod to processes, and from how they end to the Pod's status.

pub(crate) mod env;
pub(crate) mod prepare;
pub(crate) mod status;
pub(crate) mod steps;
pub(crate) mod volumes;
pub(crate) mod worker;
