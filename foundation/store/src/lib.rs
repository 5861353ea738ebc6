//! The SQLite store of one machine: objects, runs, metrics, the model registry.
//!
//! One database file in WAL mode. A single writer thread owns the only writing connection and
//! commits in groups: writes that are waiting when it comes round share one transaction, each
//! inside its own savepoint, so that one failing write undoes only itself. A write's answer is sent
//! after the commit, never before. Readers have connections of their own and never wait for it.
//!
//! Rooms above own their tables: each calls [`Store::migrate`] under its own name. Nothing here
//! knows what is stored.

mod error;
mod readers;
mod writer;

use std::{path::Path, sync::Arc};

pub use error::StoreError;
pub use rusqlite;

/// A handle on the store; clones share it. The file is closed when the last clone is dropped.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    writer: writer::Writer,
    readers: readers::Readers,
}

impl Store {
    /// Opens the database, creating the file and its directory where they are missing.
    ///
    /// # Errors
    /// [`StoreError::Open`] names the path and why: not writable, not a database, locked by another
    /// process that keeps it exclusively.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let writer = writer::Writer::open(path)?;
        let readers = readers::Readers::new(path);
        Ok(Self { inner: Arc::new(Inner { writer, readers }) })
    }

    /// Brings one room's tables up to date. `steps` only ever grows: step `i` runs once, ever.
    ///
    /// # Errors
    /// [`StoreError::Newer`] if the file was written by a later version; [`StoreError::Sql`] if a
    /// step fails, in which case none of the steps took effect.
    pub fn migrate(
        &self,
        room: &'static str,
        steps: &'static [&'static str],
    ) -> Result<(), StoreError> {
        self.write_blocking(move |tx| writer::migrate(tx, room, steps))
    }

    /// Runs `work` in a transaction and waits until it is on its way to disk.
    ///
    /// What `work` returns as an error undoes `work` alone. It runs on the writer's thread: keep it
    /// to SQL.
    ///
    /// # Errors
    /// What `work` returned, or [`StoreError::Full`] / [`StoreError::Sql`] if the commit failed;
    /// then nothing of it is stored.
    pub async fn write<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&rusqlite::Connection) -> Result<T, E> + Send + 'static,
    {
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.inner.writer.submit(writer::job(work, move |result| drop(reply.send(result))))?;
        answer.await.unwrap_or_else(|_| Err(StoreError::Closed.into()))
    }

    /// [`Store::write`] for callers outside a runtime.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub fn write_blocking<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&rusqlite::Connection) -> Result<T, E> + Send + 'static,
    {
        let (reply, answer) = std::sync::mpsc::sync_channel(1);
        self.inner.writer.submit(writer::job(work, move |result| drop(reply.send(result))))?;
        answer.recv().unwrap_or_else(|_| Err(StoreError::Closed.into()))
    }

    /// Reads on the calling thread. A read sees everything whose write was answered before.
    ///
    /// Meant for look-ups of microseconds; wrap long scans in `spawn_blocking`.
    ///
    /// # Errors
    /// What `work` returned, or [`StoreError`] if no reading connection could be opened.
    pub fn read<T, E, F>(&self, work: F) -> Result<T, E>
    where
        E: From<StoreError>,
        F: FnOnce(&rusqlite::Connection) -> Result<T, E>,
    {
        self.inner.readers.with(work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzen_types::{Coded, ErrorCode};

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("sub/mizzen.db")).unwrap();
        store
            .migrate("test", &["CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT NOT NULL)"])
            .unwrap();
        (dir, store)
    }

    fn count(store: &Store) -> i64 {
        store
            .read::<_, StoreError, _>(|c| {
                Ok(c.query_row("SELECT count(*) FROM t", [], |r| r.get(0))?)
            })
            .unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_failing_write_undoes_itself_and_none_of_its_neighbours() {
        let (_dir, store) = store();
        let writes = (0..200).map(|i| {
            let store = store.clone();
            tokio::spawn(async move {
                store
                    .write::<_, StoreError, _>(move |tx| {
                        tx.execute("INSERT INTO t (v) VALUES (?1)", [i.to_string()])?;
                        if i % 3 == 0 {
                            tx.execute("INSERT INTO t (v) VALUES (NULL)", [])?;
                        }
                        Ok(())
                    })
                    .await
                    .is_ok()
            })
        });
        let mut ok = 0;
        for write in writes.collect::<Vec<_>>() {
            ok += i64::from(write.await.unwrap());
        }
        assert_eq!(ok, 133);
        assert_eq!(count(&store), ok, "exactly what was answered is stored");
    }

    #[test]
    fn what_was_answered_is_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mizzen.db");
        {
            let store = Store::open(&path).unwrap();
            store.migrate("test", &["CREATE TABLE t (v TEXT)"]).unwrap();
            store
                .write_blocking::<_, StoreError, _>(|tx| {
                    Ok(tx.execute("INSERT INTO t VALUES ('x')", [])?)
                })
                .unwrap();
        }
        let store = Store::open(&path).unwrap();
        store.migrate("test", &["CREATE TABLE t (v TEXT)", "ALTER TABLE t ADD w TEXT"]).unwrap();
        assert_eq!(count(&store), 1);
        let error = store.migrate("test", &["CREATE TABLE t (v TEXT)"]).unwrap_err();
        assert!(matches!(error, StoreError::Newer { .. }), "{error}");
    }

    #[test]
    fn a_panic_in_a_write_is_that_writes_error() {
        let (_dir, store) = store();
        let error = store.write_blocking::<(), StoreError, _>(|_| panic!("boom")).unwrap_err();
        assert!(matches!(error, StoreError::Closed), "{error}");
        store
            .write_blocking::<_, StoreError, _>(|tx| {
                Ok(tx.execute("INSERT INTO t (v) VALUES ('x')", [])?)
            })
            .unwrap();
        assert_eq!(count(&store), 1);
    }

    #[test]
    fn a_full_disk_is_named_as_such_and_later_writes_go_on() {
        let (_dir, store) = store();
        store
            .write_blocking::<_, StoreError, _>(|tx| {
                Ok(tx.execute_batch("PRAGMA max_page_count=8")?)
            })
            .unwrap();
        let big = "x".repeat(1 << 20);
        let error = store
            .write_blocking::<_, StoreError, _>(move |tx| {
                Ok(tx.execute("INSERT INTO t (v) VALUES (?1)", [big])?)
            })
            .unwrap_err();
        assert_eq!(error.code(), ErrorCode::StorageFull, "{error}");
        store
            .write_blocking::<_, StoreError, _>(|tx| {
                Ok(tx.execute("INSERT INTO t (v) VALUES ('x')", [])?)
            })
            .unwrap();
        assert_eq!(count(&store), 1);
    }

    #[test]
    fn a_path_that_cannot_be_opened_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("not-a-db");
        std::fs::write(&path, vec![b'x'; 4096]).unwrap();
        let error = Store::open(&path).err().unwrap();
        assert!(error.message().contains("not-a-db"), "{}", error.message());
    }
}
