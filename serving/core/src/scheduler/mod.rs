//! The scheduler seam: events in, actions out, no clock.
//!
//! A scheduler decides which waiting requests run together, on which instance and when. It holds
//! ids and row counts, never tensors. Its driver owns the clock, the threads and the requests: it
//! calls [`Scheduler::step`] once per event, carries out the actions, and steps again with
//! [`Event::Timer`] when [`Scheduler::wake`] comes due.

mod batcher;
pub mod conformance;

use std::{ops::Range, time::Duration};

pub use batcher::{Batcher, BatcherOptions, LATENCY_OBJECTIVE, MAX_BATCH_TOKENS};
use mizzen_types::{Coded, ErrorCode};

/// A moment: the time since an epoch that the driver chose. It never goes back.
pub type Time = Duration;

/// A request, by a number that the driver never uses twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// An instance of the model, by its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId(pub usize);

/// What must be equal for two requests to share a batch: the sizes of the free dimensions below the
/// batch dimension, in the signature's order, and which outputs are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Bucket(pub Vec<u64>);

/// A request as the scheduler sees it.
#[derive(Debug, Clone)]
pub struct Ticket {
    /// Which request.
    pub id: RequestId,
    /// Its rows, at least 1. A request with more than a batch takes runs in parts.
    pub rows: usize,
    /// What it may share a batch with.
    pub bucket: Bucket,
    /// Its size in the dimension that may be padded; 0 where none may. Requests of one bucket and
    /// several lengths may share a batch, which is then as long as the longest.
    pub length: u64,
    /// Elements of one of its rows, in all inputs together.
    pub volume: u64,
    /// The longest it may wait in the queue.
    pub timeout: Option<Duration>,
    /// 1 is highest; 0 means the model's default level.
    pub priority: u64,
}

/// How long a run took.
#[derive(Debug, Clone)]
pub struct Measured {
    /// What its requests shared.
    pub bucket: Bucket,
    /// Their length, where one may be padded; else 0.
    pub length: u64,
    /// Elements of one row, in all inputs together.
    pub volume: u64,
    /// Rows of the batch.
    pub rows: usize,
    /// From its start to the instance's being free again.
    pub took: Duration,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// A request came in. It is answered by exactly one action, unless it is cancelled first.
    Arrived(Ticket),
    /// An instance has nothing to do: it was opened, or its batch is over.
    Free {
        /// Which.
        instance: InstanceId,
        /// How long its batch took, if that tells how long the next will: it ran as it was given,
        /// and succeeded.
        took: Option<Duration>,
    },
    /// A run outside the schedule, such as a warm-up, took so long.
    Measured(Measured),
    /// [`Scheduler::wake`] came due.
    Timer,
    /// The caller of a request has gone. One that is already dispatched is not the scheduler's.
    Cancelled(RequestId),
    /// No more requests are wanted: those waiting are dispatched without delay, new ones refused.
    Drain,
}

/// Rows of a request that run together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Which request.
    pub request: RequestId,
    /// Which of its rows: all, or for one with more rows than a batch takes the next ones.
    pub rows: Range<usize>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Run these parts as one batch, in this order, padded to the longest. The instance is busy
    /// until it is [`Event::Free`] again.
    Dispatch {
        /// Where.
        instance: InstanceId,
        /// What; never empty.
        parts: Vec<Part>,
        /// Why now.
        release: Release,
        /// What it takes at worst, as far as runs before it tell; `None` before the first.
        expected: Option<Duration>,
    },
    /// Answer this request with an error. It never runs; of one that runs in parts, no further
    /// part does.
    Refuse {
        /// Which.
        request: RequestId,
        /// Why.
        refusal: Refusal,
    },
}

/// Why a batch was released when it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Release {
    /// It could not grow any more.
    Full,
    /// It had a preferred size.
    Preferred,
    /// Its oldest request had waited for the whole of `max_queue_delay_microseconds`.
    DelayOver,
    /// Waiting on was not predicted to pay: no arrival was likely soon, or one would gain too little.
    NotWorthWaiting,
    /// A deadline would have passed.
    Deadline,
    /// An instance was free, and the model has no queue delay.
    NoDelay,
    /// Its oldest request had been overtaken for long enough.
    Overdue,
    /// The model is being taken out of service.
    Drain,
    /// The model runs each request alone.
    Alone,
}

impl Release {
    /// All of them, in the order of [`Release::index`].
    pub const ALL: [Self; 9] = [
        Self::Full,
        Self::Preferred,
        Self::DelayOver,
        Self::NotWorthWaiting,
        Self::Deadline,
        Self::NoDelay,
        Self::Overdue,
        Self::Drain,
        Self::Alone,
    ];

    /// Its word in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Preferred => "preferred",
            Self::DelayOver => "delay_over",
            Self::NotWorthWaiting => "not_worth_waiting",
            Self::Deadline => "deadline",
            Self::NoDelay => "no_delay",
            Self::Overdue => "overdue",
            Self::Drain => "drain",
            Self::Alone => "alone",
        }
    }

    /// Its place in [`Release::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// Why a request does not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// As many requests wait as may.
    #[error(
        "{limit} requests are waiting, which is the limit; retry later or raise `max_queue_size`"
    )]
    QueueFull {
        /// The limit.
        limit: usize,
        /// When there is probably room again.
        retry_after: Duration,
    },
    /// It waited as long as it may.
    #[error("the request waited {waited:?} in the queue, and its timeout is {timeout:?}")]
    TimedOut {
        /// How long it waited.
        waited: Duration,
        /// How long it could.
        timeout: Duration,
    },
    /// It would not be answered in time, as far as can be told on its arrival.
    #[error(
        "the request would be {what} in about {predicted:?}, and {limit:?} is the limit; retry later"
    )]
    Infeasible {
        /// What would be too late: its start (a timeout) or its answer (a latency objective).
        what: &'static str,
        /// When that would be, from now.
        predicted: Duration,
        /// When it would have to be.
        limit: Duration,
        /// When there is probably time for it.
        retry_after: Duration,
    },
    /// It can no longer be answered in time.
    #[error(
        "the request waited {waited:?} and cannot be answered within the model's objective of {objective:?} any more; retry later"
    )]
    TooLate {
        /// How long it waited.
        waited: Duration,
        /// How long it could take in all.
        objective: Duration,
        /// When there is probably time for it.
        retry_after: Duration,
    },
    /// It has more rows than a batch may have, and the model does not put batches together.
    #[error(
        "the request has {rows} rows; a batch takes at most {max} (`max_batch_size`), and without `dynamic_batching` requests are not split"
    )]
    TooManyRows {
        /// Its rows.
        rows: usize,
        /// The most allowed.
        max: usize,
    },
    /// The model is being taken out of service.
    #[error("the model is being taken out of service")]
    Draining,
}

impl Refusal {
    /// Every word that [`Refusal::reason`] may give.
    pub const REASONS: [&'static str; 6] =
        ["queue_full", "timed_out", "infeasible", "too_late", "too_many_rows", "draining"];

    /// When it is worth asking again, where that can be told.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::QueueFull { retry_after, .. }
            | Self::Infeasible { retry_after, .. }
            | Self::TooLate { retry_after, .. } => Some(*retry_after),
            Self::TimedOut { .. } | Self::TooManyRows { .. } | Self::Draining => None,
        }
    }

    /// Its word in metrics and logs.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::QueueFull { .. } => "queue_full",
            Self::TimedOut { .. } => "timed_out",
            Self::Infeasible { .. } => "infeasible",
            Self::TooLate { .. } => "too_late",
            Self::TooManyRows { .. } => "too_many_rows",
            Self::Draining => "draining",
        }
    }
}

impl Coded for Refusal {
    fn code(&self) -> ErrorCode {
        match self {
            Self::QueueFull { .. } | Self::Infeasible { .. } | Self::TooLate { .. } => {
                ErrorCode::ResourceExhausted
            }
            Self::TimedOut { .. } => ErrorCode::DeadlineExceeded,
            Self::TooManyRows { .. } => ErrorCode::InvalidArgument,
            Self::Draining => ErrorCode::Unavailable,
        }
    }
}

/// Decides what runs when. Every implementation passes [`conformance::check`].
pub trait Scheduler: Send {
    /// Takes one event at `now` and appends what is to be done about it. A request whose timeout is
    /// over at `now` is refused in this step, whatever the event.
    fn step(&mut self, now: Time, event: Event, actions: &mut Vec<Action>);

    /// When the next [`Event::Timer`] is due, as of the last step; `None` if nothing waits for time
    /// to pass.
    fn wake(&self) -> Option<Time>;

    /// Requests that wait: arrived, and neither dispatched, refused nor cancelled.
    fn waiting(&self) -> usize;
}
