//! The threads that one run may use.

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder, prelude::*};

/// An instance's threads. Where there is one, [`Workers::each`] works on the caller's own, which
/// spares waking another.
pub(crate) struct Workers {
    /// `None` is the process's pool.
    pool: Option<ThreadPool>,
}

impl Workers {
    /// So many threads of their own; 0 shares the process's pool (`RAYON_NUM_THREADS`).
    pub(crate) fn new(threads: usize) -> Result<Self, ThreadPoolBuildError> {
        let pool = match threads {
            0 => None,
            n => Some(
                ThreadPoolBuilder::new()
                    .num_threads(n)
                    .thread_name(|index| format!("candle-{index}"))
                    .build()?,
            ),
        };
        Ok(Self { pool })
    }

    /// How many they are.
    pub(crate) fn count(&self) -> usize {
        self.pool.as_ref().map_or_else(rayon::current_num_threads, ThreadPool::current_num_threads)
    }

    /// Runs `work` where rayon's own splitting uses these threads and no others.
    pub(crate) fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }

    /// Runs `work` on one of these threads if there are several, so that each [`Workers::each`] in
    /// it starts without waking one up.
    pub(crate) fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        if self.count() == 1 { work() } else { self.install(work) }
    }

    /// Does `work` for each job, in no order.
    pub(crate) fn each<J: Send>(&self, jobs: Vec<J>, work: impl Fn(J) + Send + Sync) {
        if self.count() == 1 || jobs.len() == 1 {
            jobs.into_iter().for_each(work);
        } else {
            self.install(|| jobs.into_par_iter().with_max_len(1).for_each(work));
        }
    }
}
