//! The tables in SQLite, and their loading at start.

use std::sync::Arc;

use mizzen_store::{Store, StoreError, rusqlite::Connection};

use super::object::{Key, Object};
use crate::ApiError;

/// Schema steps of the room `apiserver`.
const STEPS: &[&str] = &["CREATE TABLE api_objects (
         resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
         version INTEGER NOT NULL, json BLOB NOT NULL,
         PRIMARY KEY (resource, namespace, name));
     CREATE TABLE api_version (only INTEGER PRIMARY KEY CHECK (only = 1), version INTEGER NOT NULL);
     INSERT INTO api_version VALUES (1, 1);"];

/// Brings the tables up to date.
pub(super) fn migrate(store: &Store) -> Result<(), StoreError> {
    store.migrate("apiserver", STEPS)
}

/// The version of the last write, and every object.
pub(super) fn load(store: &Store) -> Result<(u64, Vec<Object>), ApiError> {
    let (version, rows) = store.read::<_, StoreError, _>(|c| {
        let version: i64 = c.query_row("SELECT version FROM api_version", [], |r| r.get(0))?;
        let mut all =
            c.prepare("SELECT resource, namespace, name, version, json FROM api_objects")?;
        let rows = all
            .query_map([], |row| {
                let key = Key {
                    table: row.get::<_, String>(0)?.into(),
                    namespace: row.get::<_, String>(1)?.into(),
                    name: row.get::<_, String>(2)?.into(),
                };
                Ok((key, row.get::<_, i64>(3)?, row.get::<_, Vec<u8>>(4)?))
            })?
            .collect::<Result<Vec<_>, _>>()?;
        Ok((version, rows))
    })?;
    let objects = rows
        .into_iter()
        .map(|(key, version, json)| Object::load(key, version.unsigned_abs(), json))
        .collect::<Result<Vec<_>, _>>()?;
    Ok((version.unsigned_abs(), objects))
}

/// One row of a group that is written in one transaction.
pub(super) enum Row {
    Put(Arc<Object>),
    Delete(Key),
}

/// Writes a group and the version it ends at.
pub(super) fn save(tx: &Connection, rows: &[Row], version: u64) -> Result<(), StoreError> {
    for row in rows {
        match row {
            Row::Put(object) => {
                let key = &object.key;
                tx.prepare_cached(
                    "INSERT OR REPLACE INTO api_objects (resource, namespace, name, version, json)
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute((
                    &*key.table,
                    &*key.namespace,
                    &*key.name,
                    object.version.cast_signed(),
                    &object.json[..],
                ))?;
            }
            Row::Delete(key) => {
                tx.prepare_cached(
                    "DELETE FROM api_objects WHERE resource = ?1 AND namespace = ?2 AND name = ?3",
                )?
                .execute((&*key.table, &*key.namespace, &*key.name))?;
            }
        }
    }
    tx.prepare_cached("UPDATE api_version SET version = ?1")?.execute([version.cast_signed()])?;
    Ok(())
}
