//! The threads of a generator.

use std::sync::{Mutex, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

/// Some threads, each with scratch memory of its own. Work is cut into jobs, more than there are
/// threads, and taken one by one: a thread that the system has put aside delays the others by one
/// job at most, and one that wakes late finds nothing left to do and is not waited for.
pub(crate) struct Team<S> {
    pool: Option<ThreadPool>,
    scratch: Vec<S>,
}

impl<S: Send> Team<S> {
    /// So many threads; 0 is as many as the process's pool has (`RAYON_NUM_THREADS`).
    pub(crate) fn new(threads: usize, scratch: impl Fn() -> S) -> Result<Self, String> {
        let threads = if threads == 0 { rayon::current_num_threads() } else { threads };
        let pool = match threads {
            1 => None,
            _ => {
                let builder = ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .thread_name(|index| format!("generate-{index}"));
                Some(builder.build().map_err(|error| error.to_string())?)
            }
        };
        Ok(Self { pool, scratch: (0..threads).map(|_| scratch()).collect() })
    }

    /// Runs `work` on one of the threads, so that jobs in it start without waking it up.
    pub(crate) fn enter<R: Send>(
        &mut self,
        work: impl FnOnce(&mut Threads<'_, S>) -> R + Send,
    ) -> R {
        let threads = &mut Threads { scratch: &mut self.scratch };
        match &self.pool {
            Some(pool) => pool.install(|| work(threads)),
            None => work(threads),
        }
    }
}

/// The threads from inside.
pub(crate) struct Threads<'a, S> {
    scratch: &'a mut [S],
}

impl<S: Send> Threads<'_, S> {
    /// How many they are.
    pub(crate) fn count(&self) -> usize {
        self.scratch.len()
    }

    /// The caller's own scratch.
    pub(crate) fn own(&mut self) -> &mut S {
        &mut self.scratch[0]
    }

    /// Does `work` for each job, in no order. `jobs` is a bound of how many there are.
    pub(crate) fn each<J>(
        &mut self,
        jobs: usize,
        mut list: impl Iterator<Item = J> + Send,
        work: impl Fn(&mut S, J) + Sync,
    ) {
        let threads = self.scratch.len().min(jobs);
        if threads <= 1 {
            let scratch = &mut self.scratch[0];
            list.for_each(|job| work(scratch, job));
            return;
        }
        let list = Mutex::new(&mut list);
        let next = || list.lock().unwrap_or_else(PoisonError::into_inner).next();
        fan(&mut self.scratch[..threads], &|scratch| {
            while let Some(job) = next() {
                work(scratch, job);
            }
        });
    }
}

/// Calls `work` once for each scratch, at once where threads are free.
fn fan<S: Send>(scratch: &mut [S], work: &(impl Fn(&mut S) + Sync)) {
    match scratch {
        [] => {}
        [one] => work(one),
        many => {
            let (left, right) = many.split_at_mut(many.len() / 2);
            rayon::join(|| fan(left, work), || fan(right, work));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_is_done_once_by_one_of_the_threads() {
        for threads in [1, 2, 5] {
            let mut team = Team::new(threads, Vec::new).unwrap();
            let mut cells = vec![0; 1000];
            team.enter(|threads| {
                for _ in 0..3 {
                    threads.each(
                        1000,
                        cells.iter_mut().enumerate(),
                        |mine: &mut Vec<_>, (i, cell)| {
                            *cell += 1;
                            mine.push(i);
                        },
                    );
                }
            });
            assert!(cells.iter().all(|cell| *cell == 3));
            let done: usize = team.scratch.iter().map(Vec::len).sum();
            assert_eq!(done, 3000);
        }
    }
}
