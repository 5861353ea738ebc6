//! The tables of pipeline runs, and every statement on them.

use std::collections::BTreeMap;

use mizzen_pipeline_engine::{Artifact, RunState, RunStatus, TaskRecord, Values};
use mizzen_store::rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{RunnerError, StepId};

/// The name under which these tables are migrated.
pub(crate) const ROOM: &str = "pipelines";

/// Only ever appended to.
pub(crate) const STEPS: &[&str] = &["
CREATE TABLE pipeline_spec (hash TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE pipeline_run (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, namespace TEXT NOT NULL, pipeline TEXT NOT NULL,
    spec_hash TEXT NOT NULL REFERENCES pipeline_spec(hash), parameters TEXT NOT NULL,
    options TEXT NOT NULL, status TEXT NOT NULL, outputs TEXT NOT NULL,
    created_ms INTEGER NOT NULL, finished_ms INTEGER) WITHOUT ROWID;
CREATE INDEX pipeline_run_newest ON pipeline_run (namespace, created_ms DESC);
CREATE INDEX pipeline_run_open ON pipeline_run (id) WHERE finished_ms IS NULL;
CREATE TABLE pipeline_task (
    run_id TEXT NOT NULL REFERENCES pipeline_run(id) ON DELETE CASCADE, path TEXT NOT NULL,
    state TEXT NOT NULL, record TEXT NOT NULL, PRIMARY KEY (run_id, path)) WITHOUT ROWID;
CREATE TABLE pipeline_attempt (
    step TEXT PRIMARY KEY, run_id TEXT NOT NULL REFERENCES pipeline_run(id) ON DELETE CASCADE,
    path TEXT NOT NULL, attempt INTEGER NOT NULL, started_ms INTEGER NOT NULL,
    finished_ms INTEGER, exit_code INTEGER, message TEXT) WITHOUT ROWID;
CREATE INDEX pipeline_attempt_of ON pipeline_attempt (run_id, path);
CREATE TABLE pipeline_artifact (
    run_id TEXT NOT NULL REFERENCES pipeline_run(id) ON DELETE CASCADE, path TEXT NOT NULL,
    output TEXT NOT NULL, number INTEGER NOT NULL, schema_title TEXT NOT NULL, uri TEXT NOT NULL,
    digest TEXT, metadata TEXT NOT NULL, PRIMARY KEY (run_id, path, output, number)) WITHOUT ROWID;
CREATE INDEX pipeline_artifact_uri ON pipeline_artifact (uri);
CREATE TABLE pipeline_cache (
    namespace TEXT NOT NULL, fingerprint TEXT NOT NULL, run_id TEXT NOT NULL, path TEXT NOT NULL,
    outputs TEXT NOT NULL, created_ms INTEGER NOT NULL,
    PRIMARY KEY (namespace, fingerprint)) WITHOUT ROWID;
"];

/// What a run was asked for, beyond pipeline and parameters.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunOptions {
    /// The directory under which the run's tasks have theirs.
    pub(crate) directory: String,
    /// Overrides what tasks say about caching.
    pub(crate) caching: Option<bool>,
}

/// A row of `pipeline_run`.
#[derive(Debug, Clone)]
pub(crate) struct RunRow {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) pipeline: String,
    pub(crate) spec_hash: String,
    pub(crate) parameters: BTreeMap<String, Value>,
    pub(crate) options: RunOptions,
    pub(crate) status: RunStatus,
    pub(crate) outputs: Values,
    pub(crate) created_ms: i64,
    pub(crate) finished_ms: Option<i64>,
}

/// How an attempt ended.
#[derive(Debug, Clone)]
pub(crate) struct AttemptEnd {
    pub(crate) step: StepId,
    pub(crate) exit_code: Option<i32>,
    pub(crate) message: Option<String>,
}

/// What one step of the engine changed.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) run_id: String,
    pub(crate) namespace: String,
    pub(crate) now_ms: i64,
    pub(crate) tasks: Vec<TaskRecord>,
    pub(crate) run: Option<(RunStatus, Values)>,
    pub(crate) started: Vec<(StepId, String, u32)>,
    pub(crate) ended: Option<AttemptEnd>,
    /// A result to keep for later: fingerprint, task, outputs.
    pub(crate) cache: Option<(String, String, Values)>,
}

type Result<T> = std::result::Result<T, RunnerError>;

const COLUMNS: &str = "id, name, namespace, pipeline, spec_hash, parameters, options, status, outputs, created_ms, finished_ms";

/// Inserts a run; one of the same id that is there already stays as it is.
pub(crate) fn insert_run(tx: &Connection, run: &RunRow, text: &str) -> Result<bool> {
    tx.prepare_cached("INSERT OR IGNORE INTO pipeline_spec VALUES (?1, ?2)")?
        .execute((&run.spec_hash, text))?;
    let inserted = tx
        .prepare_cached(
            "INSERT OR IGNORE INTO pipeline_run VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,NULL)",
        )?
        .execute(params![
            run.id,
            run.name,
            run.namespace,
            run.pipeline,
            run.spec_hash,
            json(&run.parameters),
            json(&run.options),
            json(&run.status),
            json(&run.outputs),
            run.created_ms,
        ])?;
    Ok(inserted == 1)
}

/// Stores what one step of the engine changed.
pub(crate) fn apply(tx: &Connection, changes: &Changes) -> Result<()> {
    let id = &changes.run_id;
    let mut task =
        tx.prepare_cached("INSERT OR REPLACE INTO pipeline_task VALUES (?1,?2,?3,?4)")?;
    for record in &changes.tasks {
        task.execute((id, &record.path, record.state.as_str(), json(record)))?;
        artifacts(tx, id, record)?;
    }
    if let Some((status, outputs)) = &changes.run {
        let finished = status.ended().then_some(changes.now_ms);
        tx.prepare_cached(
            "UPDATE pipeline_run SET status = ?2, outputs = ?3, finished_ms = ?4 WHERE id = ?1",
        )?
        .execute(params![id, json(status), json(outputs), finished])?;
    }
    for (step, path, attempt) in &changes.started {
        tx.prepare_cached(
            "INSERT OR IGNORE INTO pipeline_attempt VALUES (?1,?2,?3,?4,?5,NULL,NULL,NULL)",
        )?
        .execute(params![step.0, id, path, attempt, changes.now_ms])?;
    }
    if let Some(end) = &changes.ended {
        tx.prepare_cached(
            "UPDATE pipeline_attempt SET finished_ms = ?2, exit_code = ?3, message = ?4 WHERE step = ?1",
        )?
        .execute(params![end.step.0, changes.now_ms, end.exit_code, end.message])?;
    }
    if let Some((fingerprint, path, outputs)) = &changes.cache {
        tx.prepare_cached("INSERT OR REPLACE INTO pipeline_cache VALUES (?1,?2,?3,?4,?5,?6)")?
            .execute(params![
                changes.namespace,
                fingerprint,
                id,
                path,
                json(outputs),
                changes.now_ms
            ])?;
    }
    Ok(())
}

fn artifacts(tx: &Connection, run_id: &str, record: &TaskRecord) -> Result<()> {
    for (output, list) in &record.outputs.artifacts {
        for (number, artifact) in list.iter().enumerate() {
            let Artifact { schema_title, uri, digest, metadata, .. } = artifact;
            tx.prepare_cached(
                "INSERT OR REPLACE INTO pipeline_artifact VALUES (?1,?2,?3,?4,?5,?6,?7,?8)",
            )?
            .execute(params![
                run_id,
                record.path,
                output,
                i64::try_from(number).unwrap_or(i64::MAX),
                schema_title,
                uri,
                digest,
                json(metadata)
            ])?;
        }
    }
    Ok(())
}

/// The run of this id.
pub(crate) fn run(c: &Connection, id: &str) -> Result<Option<RunRow>> {
    let sql = format!("SELECT {COLUMNS} FROM pipeline_run WHERE id = ?1");
    let mut statement = c.prepare_cached(&sql)?;
    let row = statement.query_row([id], |row| Ok(run_row(row))).optional()?;
    row.transpose()
}

/// The newest runs first; of all namespaces where none is given.
pub(crate) fn runs(c: &Connection, namespace: Option<&str>, limit: usize) -> Result<Vec<RunRow>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM pipeline_run WHERE ?1 IS NULL OR namespace = ?1
         ORDER BY created_ms DESC, id LIMIT ?2"
    );
    let mut statement = c.prepare_cached(&sql)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = statement.query_map(params![namespace, limit], |row| Ok(run_row(row)))?;
    rows.map(|row| row?).collect()
}

/// Ids of the runs that are not over.
pub(crate) fn open_runs(c: &Connection) -> Result<Vec<String>> {
    let sql = "SELECT id FROM pipeline_run WHERE finished_ms IS NULL ORDER BY created_ms";
    let mut statement = c.prepare_cached(sql)?;
    let ids = statement.query_map([], |row| row.get(0))?;
    Ok(ids.collect::<std::result::Result<_, _>>()?)
}

/// The text of a pipeline.
pub(crate) fn spec_text(c: &Connection, hash: &str) -> Result<Option<String>> {
    let mut statement = c.prepare_cached("SELECT text FROM pipeline_spec WHERE hash = ?1")?;
    Ok(statement.query_row([hash], |row| row.get(0)).optional()?)
}

/// The records of a run's tasks, by path.
pub(crate) fn tasks(c: &Connection, run_id: &str) -> Result<Vec<TaskRecord>> {
    let sql = "SELECT record FROM pipeline_task WHERE run_id = ?1 ORDER BY path";
    let mut statement = c.prepare_cached(sql)?;
    let rows = statement.query_map([run_id], |row| row.get::<_, String>(0))?;
    rows.map(|text| parse(run_id, &text?)).collect()
}

/// The run as it was after the last step of the engine that was stored.
pub(crate) fn state(c: &Connection, run: &RunRow) -> Result<RunState> {
    let records = tasks(c, &run.id)?;
    Ok(RunState::restore(run.parameters.clone(), run.status, run.outputs.clone(), records))
}

/// Run, task and attempt that a step is of.
pub(crate) fn step(c: &Connection, step: &StepId) -> Result<Option<(String, String, u32)>> {
    let sql = "SELECT run_id, path, attempt FROM pipeline_attempt WHERE step = ?1";
    let mut statement = c.prepare_cached(sql)?;
    let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    Ok(statement.query_row([&step.0], read).optional()?)
}

/// An earlier result under this fingerprint.
pub(crate) fn cached(c: &Connection, namespace: &str, fingerprint: &str) -> Result<Option<Values>> {
    let sql = "SELECT outputs FROM pipeline_cache WHERE namespace = ?1 AND fingerprint = ?2";
    let mut statement = c.prepare_cached(sql)?;
    let text =
        statement.query_row((namespace, fingerprint), |row| row.get::<_, String>(0)).optional()?;
    text.map(|text| parse("cache", &text)).transpose()
}

fn run_row(row: &Row<'_>) -> Result<RunRow> {
    let id: String = row.get(0)?;
    let text = |index: usize| row.get::<_, String>(index);
    Ok(RunRow {
        name: text(1)?,
        namespace: text(2)?,
        pipeline: text(3)?,
        spec_hash: text(4)?,
        parameters: parse(&id, &text(5)?)?,
        options: parse(&id, &text(6)?)?,
        status: parse(&id, &text(7)?)?,
        outputs: parse(&id, &text(8)?)?,
        created_ms: row.get(9)?,
        finished_ms: row.get(10)?,
        id,
    })
}

pub(crate) fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("these types have string keys only")
}

pub(crate) fn parse<T: DeserializeOwned>(run: &str, text: &str) -> Result<T> {
    serde_json::from_str(text)
        .map_err(|e| RunnerError::Stored { run: run.to_owned(), source: e.into() })
}
