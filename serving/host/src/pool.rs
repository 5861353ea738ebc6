//! The threads that load models: a fixed number, so that a large repository does not load at once.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

type Task = Box<dyn FnOnce() + Send>;

/// A handle on the threads, which end when it is dropped and their queue is empty.
#[derive(Debug)]
pub(crate) struct Pool {
    tasks: mpsc::Sender<Task>,
}

impl Pool {
    /// Starts this many threads, at least one.
    ///
    /// # Errors
    /// What the system says if it gives none.
    pub(crate) fn start(threads: usize) -> io::Result<Self> {
        let (tasks, queue) = mpsc::channel::<Task>();
        let queue = Arc::new(Mutex::new(queue));
        for index in 0..threads.max(1) {
            let queue = queue.clone();
            let body = move || {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(task) = next else { return };
                    // A task that panics tells its own waiter by dropping its sender.
                    let _ = catch_unwind(AssertUnwindSafe(task));
                }
            };
            thread::Builder::new().name(format!("load/{index}")).spawn(body)?;
        }
        Ok(Self { tasks })
    }

    /// Queues a task.
    pub(crate) fn run(&self, task: impl FnOnce() + Send + 'static) {
        // The threads outlive the handle, so the queue is open.
        let _ = self.tasks.send(Box::new(task));
    }
}
