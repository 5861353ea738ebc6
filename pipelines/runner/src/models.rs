//! The model registry: names, versions counted up, and where each came from.

use mizzen_store::rusqlite::{OptionalExtension, Row, params};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{Runner, RunnerError, artifacts, tables};

/// A version of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelVersion {
    /// The model's name.
    pub name: String,
    /// Its version, counted from 1.
    pub version: u32,
    /// Where it is.
    pub uri: String,
    /// SHA-256 over its data, where that was at hand.
    pub digest: Option<String>,
    /// What is said about it.
    pub metadata: Map<String, Value>,
    /// The run it came out of.
    pub run_id: Option<String>,
    /// The task of that run.
    pub task: Option<String>,
    /// When it was registered, in ms since 1970.
    pub created_ms: i64,
}

/// A version to register.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NewModelVersion {
    /// The model's name: letters, digits, `-`, `_`, `.` and `/`.
    pub name: String,
    /// Where it is.
    pub uri: String,
    /// What is said about it.
    pub metadata: Map<String, Value>,
    /// The run it came out of.
    pub run_id: Option<String>,
    /// The task of that run.
    pub task: Option<String>,
}

const COLUMNS: &str = "name, version, uri, digest, metadata, run_id, task, created_ms";

impl Runner {
    /// Registers a model under its name's next version. The same data registered again by the same
    /// task of the same run keeps its version.
    ///
    /// # Errors
    /// [`RunnerError::Name`] for a name that cannot be one, or the store's error.
    pub async fn register_model(&self, new: NewModelVersion) -> Result<ModelVersion, RunnerError> {
        let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        if new.name.is_empty() || new.name.len() > 200 || !new.name.chars().all(ok) {
            return Err(RunnerError::Name {
                what: "model",
                name: new.name,
                want: "1 to 200 letters, digits, `-`, `_`, `.` and `/`",
            });
        }
        let path = artifacts::local(&new.uri);
        let digest = tokio::task::spawn_blocking(move || {
            path.and_then(|path| artifacts::digest(&path).ok().flatten())
        });
        let digest = digest.await.unwrap_or_default();
        let now_ms = crate::runner::now_ms();
        self.store()
            .write(move |tx| {
                let again = tx
                    .prepare_cached(&format!(
                        "SELECT {COLUMNS} FROM model_version WHERE name = ?1 AND uri = ?2
                         AND digest IS ?3 AND run_id IS NOT NULL AND run_id = ?4 AND task IS ?5"
                    ))?
                    .query_row(
                        params![new.name, new.uri, digest, new.run_id, new.task],
                        |row| Ok(version(row)),
                    )
                    .optional()?;
                if let Some(again) = again {
                    return again;
                }
                tx.prepare_cached(
                    "INSERT INTO model_version SELECT ?1, COALESCE(MAX(version), 0) + 1,
                     ?2, ?3, ?4, ?5, ?6, ?7 FROM model_version WHERE name = ?1",
                )?
                .execute(params![
                    new.name,
                    new.uri,
                    digest,
                    tables::json(&new.metadata),
                    new.run_id,
                    new.task,
                    now_ms
                ])?;
                tx.prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM model_version WHERE name = ?1 ORDER BY version DESC LIMIT 1"
                ))?
                .query_row([&new.name], |row| Ok(version(row)))?
            })
            .await
    }

    /// A version of a model, or its newest.
    ///
    /// # Errors
    /// [`RunnerError::NoModel`] if there is none, or the store's error.
    pub fn model(&self, name: &str, number: Option<u32>) -> Result<ModelVersion, RunnerError> {
        self.store().read(|c| {
            let found = c
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM model_version
                     WHERE name = ?1 AND (?2 IS NULL OR version = ?2) ORDER BY version DESC LIMIT 1"
                ))?
                .query_row(params![name, number], |row| Ok(version(row)))
                .optional()?;
            found.unwrap_or_else(|| {
                let shown = number.map_or(name.to_owned(), |n| format!("{name}:{n}"));
                Err(RunnerError::NoModel(shown))
            })
        })
    }

    /// All versions of all models, or of one, newest first within a name.
    ///
    /// # Errors
    /// The store's error.
    pub fn models(&self, name: Option<&str>) -> Result<Vec<ModelVersion>, RunnerError> {
        self.store().read(|c| {
            let mut statement = c.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM model_version WHERE ?1 IS NULL OR name = ?1
                 ORDER BY name, version DESC"
            ))?;
            let rows = statement.query_map(params![name], |row| Ok(version(row)))?;
            rows.map(|row| row?).collect()
        })
    }
}

fn version(row: &Row<'_>) -> Result<ModelVersion, RunnerError> {
    let name: String = row.get(0)?;
    Ok(ModelVersion {
        version: row.get(1)?,
        uri: row.get(2)?,
        digest: row.get(3)?,
        metadata: tables::parse(&name, &row.get::<_, String>(4)?)?,
        run_id: row.get(5)?,
        task: row.get(6)?,
        created_ms: row.get(7)?,
        name,
    })
}
