//! Studies and their trials as rows.

use mizzen_store::{Store, StoreError, rusqlite};
use rusqlite::{Connection, OptionalExtension as _, Row};
use serde::Serialize;

use crate::{StudyError, StudySpec};

const MIGRATIONS: &[&str] = &["CREATE TABLE studies (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    spec TEXT NOT NULL
);
CREATE TABLE study_trials (
    study INTEGER NOT NULL,
    number INTEGER NOT NULL,
    assignments TEXT NOT NULL,
    state TEXT NOT NULL,
    value REAL,
    PRIMARY KEY (study, number)
) WITHOUT ROWID;
CREATE TABLE study_reports (
    study INTEGER NOT NULL,
    number INTEGER NOT NULL,
    step INTEGER NOT NULL,
    value REAL NOT NULL,
    PRIMARY KEY (study, number, step)
) WITHOUT ROWID"];

/// Where a trial stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Asked for and not told.
    Running,
    /// Told with a value.
    Succeeded,
    /// Given up early.
    Pruned,
    /// Told without a value.
    Failed,
}

impl State {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Pruned => "pruned",
            Self::Failed => "failed",
        }
    }

    fn read(text: &str) -> Self {
        match text {
            "running" => Self::Running,
            "succeeded" => Self::Succeeded,
            "pruned" => Self::Pruned,
            _ => Self::Failed,
        }
    }
}

/// A point and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// Counted from 0 within the study.
    pub number: u64,
    /// Names and values, as text.
    pub assignments: Vec<(String, String)>,
    /// Where it stands.
    pub state: State,
    /// What it was worth; of a pruned trial, what it was worth last.
    pub value: Option<f64>,
    /// Values along the way, by step.
    pub intermediate: Vec<(u64, f64)>,
}

/// A study as stored.
#[derive(Debug, Clone)]
pub(crate) struct Study {
    pub(crate) id: i64,
    pub(crate) spec: StudySpec,
}

pub(crate) fn open(store: &Store) -> Result<(), StoreError> {
    store.migrate("studies", MIGRATIONS)
}

pub(crate) fn study(c: &Connection, name: &str) -> Result<Option<Study>, StudyError> {
    let sql = "SELECT id, spec FROM studies WHERE name = ?1";
    let row = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?));
    let found = c.prepare_cached(sql)?.query_row([name], row).optional()?;
    found.map(|(id, spec)| Ok(Study { id, spec: parse(&spec)? })).transpose()
}

pub(crate) fn specs(c: &Connection) -> Result<Vec<StudySpec>, StudyError> {
    let mut select = c.prepare_cached("SELECT spec FROM studies ORDER BY name")?;
    let rows = select.query_map([], |row| row.get::<_, String>(0))?;
    rows.map(|spec| parse(&spec?)).collect()
}

fn parse(spec: &str) -> Result<StudySpec, StudyError> {
    serde_json::from_str(spec).map_err(|e| StudyError::Body(e.to_string()))
}

pub(crate) fn create(c: &Connection, spec: &StudySpec) -> Result<(), StudyError> {
    let text = serde_json::to_string(spec).map_err(|e| StudyError::Body(e.to_string()))?;
    c.execute("INSERT INTO studies (name, spec) VALUES (?1, ?2)", (&spec.name, text))?;
    Ok(())
}

pub(crate) fn delete(c: &Connection, study: i64) -> Result<(), StudyError> {
    for table in ["study_reports", "study_trials"] {
        c.execute(&format!("DELETE FROM {table} WHERE study = ?1"), [study])?;
    }
    c.execute("DELETE FROM studies WHERE id = ?1", [study])?;
    Ok(())
}

/// Trials from `first` on, at most `limit`, by number.
pub(crate) fn trials(
    c: &Connection,
    study: i64,
    first: u64,
    limit: usize,
) -> Result<Vec<Trial>, StudyError> {
    let sql = "SELECT number, assignments, state, value FROM study_trials
               WHERE study = ?1 AND number >= ?2 ORDER BY number LIMIT ?3";
    let mut select = c.prepare_cached(sql)?;
    let (first, limit) = (signed(first), i64::try_from(limit).unwrap_or(i64::MAX));
    let rows = select.query_map((study, first, limit), |row| {
        let assignments: String = row.get(1)?;
        Ok(Trial {
            number: row.get::<_, i64>(0)?.unsigned_abs(),
            assignments: serde_json::from_str(&assignments).unwrap_or_default(),
            state: State::read(&row.get::<_, String>(2)?),
            value: row.get(3)?,
            intermediate: vec![],
        })
    })?;
    let mut trials: Vec<Trial> = rows.collect::<Result<_, _>>()?;
    let Some(last) = trials.last().map(|t| signed(t.number)) else { return Ok(trials) };
    let sql = "SELECT number, step, value FROM study_reports
               WHERE study = ?1 AND number BETWEEN ?2 AND ?3 ORDER BY number, step";
    let mut select = c.prepare_cached(sql)?;
    let mut rows = select.query((study, first, last))?;
    let mut at = 0;
    while let Some(row) = rows.next()? {
        let number = row.get::<_, i64>(0)?.unsigned_abs();
        while at < trials.len() && trials[at].number < number {
            at += 1;
        }
        if let Some(trial) = trials.get_mut(at).filter(|t| t.number == number) {
            trial.intermediate.push((row.get::<_, i64>(1)?.unsigned_abs(), row.get(2)?));
        }
    }
    Ok(trials)
}

pub(crate) fn add(
    c: &Connection,
    study: i64,
    number: u64,
    assignments: &[(String, String)],
) -> Result<(), StudyError> {
    let text = serde_json::to_string(assignments).map_err(|e| StudyError::Body(e.to_string()))?;
    let sql = "INSERT INTO study_trials VALUES (?1, ?2, ?3, 'running', NULL)";
    c.prepare_cached(sql)?.execute((study, signed(number), text))?;
    Ok(())
}

pub(crate) fn end(
    c: &Connection,
    study: i64,
    number: u64,
    state: State,
    value: Option<f64>,
) -> Result<(), StudyError> {
    let sql = "UPDATE study_trials SET state = ?3, value = ?4 WHERE study = ?1 AND number = ?2";
    c.prepare_cached(sql)?.execute((study, signed(number), state.as_str(), value))?;
    Ok(())
}

pub(crate) fn report(
    c: &Connection,
    study: i64,
    number: u64,
    step: u64,
    value: f64,
) -> Result<(), StudyError> {
    let sql = "INSERT OR REPLACE INTO study_reports VALUES (?1, ?2, ?3, ?4)";
    c.prepare_cached(sql)?.execute((study, signed(number), signed(step), value))?;
    Ok(())
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
