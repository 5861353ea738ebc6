//! Reading connections, opened when needed and kept for the next reader.

use std::{
    path::{Path, PathBuf},
    sync::Mutex,
};

use rusqlite::{Connection, OpenFlags};

use crate::StoreError;

/// Idle connections kept: as many as readers usually run at once; each holds about 100 KiB.
const IDLE_MAX: usize = 8;

pub(crate) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), idle: Mutex::new(Vec::new()) }
    }

    pub(crate) fn with<T, E, F>(&self, work: F) -> Result<T, E>
    where
        E: From<StoreError>,
        F: FnOnce(&Connection) -> Result<T, E>,
    {
        let pooled = self.idle.lock().expect("no panic while held").pop();
        let connection = match pooled {
            Some(connection) => connection,
            None => self.open().map_err(StoreError::from)?,
        };
        let result = work(&connection);
        let mut idle = self.idle.lock().expect("no panic while held");
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
        result
    }

    fn open(&self) -> Result<Connection, rusqlite::Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(crate::writer::BUSY)?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(connection)
    }
}
