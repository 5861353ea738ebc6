//! The Job controller: from a Job and its Pods to more Pods, or to its end.

mod child;
mod controller;
mod decide;
mod observe;

pub(crate) use child::{CONTROLLER_UID, JOB_NAME};
pub(crate) use controller::run;
pub(crate) use observe::{CANNOT_RUN, DISRUPTION_TARGET, REJECTED};
