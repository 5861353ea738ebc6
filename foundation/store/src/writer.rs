//! The writer thread: the only writing connection, commits in groups.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::mpsc,
    thread::JoinHandle,
    time::Duration,
};

use rusqlite::Connection;

use crate::StoreError;

/// How long SQLite waits for a lock that another process holds (a backup, a `sqlite3` shell).
pub(crate) const BUSY: Duration = Duration::from_secs(5);

/// Writes that may share a commit: enough to make a commit's cost vanish, few enough that the first
/// of them is answered within a millisecond or so.
const GROUP_MAX: usize = 256;

/// Writes that may wait for the writer before submitters block: bounds memory, not throughput.
const QUEUE_MAX: usize = 4096;

/// What is left to do once the group is committed, or could not be.
type Finish = Box<dyn FnOnce(Result<(), &rusqlite::Error>) + Send>;

/// One write: runs inside a savepoint, then hands back how to answer.
pub(crate) type Job = Box<dyn FnOnce(&Connection) -> Outcome + Send>;

/// Whether the savepoint is to be kept, and the answer to send after the commit.
pub(crate) struct Outcome {
    keep: bool,
    finish: Finish,
}

pub(crate) struct Writer {
    jobs: Option<mpsc::SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let open_error = |source| StoreError::Open { path: path.to_owned(), source };
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(|e| open_error(e.into()))?;
        }
        let connection = connect(path).map_err(|e| open_error(e.into()))?;
        let (sender, jobs) = mpsc::sync_channel(QUEUE_MAX);
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || run(&connection, &jobs))
            .map_err(|e| open_error(e.into()))?;
        Ok(Self { jobs: Some(sender), thread: Some(thread) })
    }

    pub(crate) fn submit(&self, job: Job) -> Result<(), StoreError> {
        let jobs = self.jobs.as_ref().expect("present until dropped");
        jobs.send(job).map_err(|_| StoreError::Closed)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) =
            self.thread.take().filter(|t| t.thread().id() != std::thread::current().id())
        {
            let _ = thread.join(); // a writer that panicked has nothing more to say
        }
    }
}

fn connect(path: &Path) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    // WAL with NORMAL: a killed process loses nothing that was answered; a power cut may lose the
    // last commits but never the file's consistency. The log goes into the file, which waits for the
    // disk, once it has 16 MiB: most pages have then been written several times.
    connection.execute_batch(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON;
         PRAGMA wal_autocheckpoint=4096;
         CREATE TABLE IF NOT EXISTS mizzen_schema (room TEXT PRIMARY KEY, version INTEGER NOT NULL)",
    )?;
    connection.set_prepared_statement_cache_capacity(128);
    Ok(connection)
}

/// Wraps a write so that its answer waits for the commit.
pub(crate) fn job<T, E, F, R>(work: F, reply: R) -> Job
where
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
    F: FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    R: FnOnce(Result<T, E>) + Send + 'static,
{
    Box::new(move |connection| {
        let result = work(connection);
        let keep = result.is_ok();
        let finish: Finish = Box::new(move |commit| {
            reply(match (result, commit) {
                (Ok(_), Err(error)) => Err(StoreError::Full(copy_of(error)).into()),
                (result, _) => result,
            });
        });
        Outcome { keep, finish }
    })
}

/// A commit's error goes to every write of its group, and `rusqlite::Error` cannot be cloned.
fn copy_of(error: &rusqlite::Error) -> rusqlite::Error {
    match error {
        rusqlite::Error::SqliteFailure(code, text) => {
            rusqlite::Error::SqliteFailure(*code, text.clone())
        }
        other => rusqlite::Error::ToSqlConversionFailure(other.to_string().into()),
    }
}

fn run(connection: &Connection, jobs: &mpsc::Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let group = std::iter::once(first).chain(jobs.try_iter().take(GROUP_MAX - 1));
        commit(connection, group);
    }
}

fn commit(connection: &Connection, group: impl Iterator<Item = Job>) {
    let mut error = connection.execute_batch("BEGIN IMMEDIATE").err();
    let mut finishes = Vec::new();
    for job in group {
        // A panic drops the job's reply, which its caller sees as a closed store.
        let outcome = catch_unwind(AssertUnwindSafe(|| in_savepoint(connection, job)));
        match outcome {
            Ok(Ok(finish)) => finishes.push(finish),
            Ok(Err((finish, failure))) => {
                finishes.push(finish);
                error.get_or_insert(failure);
            }
            Err(_) => drop(connection.execute_batch("ROLLBACK TO w; RELEASE w")),
        }
    }
    // After a full disk SQLite may have rolled the whole transaction back on its own.
    if error.is_none() {
        error = connection.execute_batch("COMMIT").err();
    }
    if !connection.is_autocommit() {
        let _ = connection.execute_batch("ROLLBACK");
    }
    for finish in finishes {
        finish(error.as_ref().map_or(Ok(()), Err));
    }
}

fn in_savepoint(connection: &Connection, job: Job) -> Result<Finish, (Finish, rusqlite::Error)> {
    let begun = connection.execute_batch("SAVEPOINT w");
    let Outcome { keep, finish } = job(connection);
    let end = if keep { "RELEASE w" } else { "ROLLBACK TO w; RELEASE w" };
    match begun.and_then(|()| connection.execute_batch(end)) {
        Ok(()) => Ok(finish),
        Err(error) => Err((finish, error)),
    }
}

pub(crate) fn migrate(
    tx: &Connection,
    room: &'static str,
    steps: &'static [&'static str],
) -> Result<(), StoreError> {
    let at = "SELECT COALESCE((SELECT version FROM mizzen_schema WHERE room = ?1), 0)";
    let found = tx.query_row(at, [room], |row| row.get::<_, i64>(0))?;
    let found = usize::try_from(found).unwrap_or(usize::MAX);
    let todo = steps.get(found..).ok_or(StoreError::Newer { room, found, known: steps.len() })?;
    if todo.is_empty() {
        return Ok(()); // nothing is written, so that a start needs no space on the disk
    }
    for step in todo {
        tx.execute_batch(step)?;
    }
    let version = i64::try_from(steps.len()).unwrap_or(i64::MAX);
    tx.execute("INSERT OR REPLACE INTO mizzen_schema VALUES (?1, ?2)", (room, version))?;
    Ok(())
}
