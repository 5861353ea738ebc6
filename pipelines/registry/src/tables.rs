//! The registry's tables.

use mizzen_store::rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::{Model, NewVersion, RegistryError, Version};

pub(crate) const STEPS: &[&str] = &["
    CREATE TABLE registered_model (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, created_ms INTEGER NOT NULL);
    CREATE TABLE registered_version (
        id INTEGER PRIMARY KEY, model_id INTEGER NOT NULL REFERENCES registered_model (id),
        number INTEGER NOT NULL, uri TEXT NOT NULL, format TEXT, properties TEXT NOT NULL,
        created_ms INTEGER NOT NULL, UNIQUE (model_id, number));
"];

const VERSIONS: &str =
    "SELECT v.id, v.number, m.id, m.name, v.uri, v.format, v.properties, v.created_ms
    FROM registered_version v JOIN registered_model m ON m.id = v.model_id";

pub(crate) fn register(
    tx: &Connection,
    new: &NewVersion,
    now_ms: i64,
) -> Result<Version, RegistryError> {
    tx.execute(
        "INSERT OR IGNORE INTO registered_model (name, created_ms) VALUES (?1, ?2)",
        params![new.name, now_ms],
    )?;
    let model: i64 =
        tx.query_row("SELECT id FROM registered_model WHERE name = ?1", [&new.name], |r| r.get(0))?;
    let newest = format!("{VERSIONS} WHERE m.id = ?1 ORDER BY v.number DESC LIMIT 1");
    let last = tx.query_row(&newest, [model], version).optional()?;
    if let Some(last) = last
        && (&last.uri, &last.model_format_name, &last.custom_properties)
            == (&new.uri, &new.model_format_name, &new.custom_properties)
    {
        return Ok(last);
    }
    let properties = serde_json::Value::from(new.custom_properties.clone()).to_string();
    tx.execute(
        "INSERT INTO registered_version (model_id, number, uri, format, properties, created_ms)
         SELECT ?1, COALESCE(MAX(number), 0) + 1, ?2, ?3, ?4, ?5 FROM registered_version WHERE model_id = ?1",
        params![model, new.uri, new.model_format_name, properties, now_ms],
    )?;
    Ok(tx.query_row(&newest, [model], version)?)
}

pub(crate) fn models(c: &Connection, name: Option<&str>) -> Result<Vec<Model>, RegistryError> {
    let mut statement = c.prepare_cached(
        "SELECT id, name, created_ms FROM registered_model WHERE ?1 IS NULL OR name = ?1 ORDER BY name",
    )?;
    let rows = statement.query_map([name], |row| {
        Ok(Model {
            id: row.get::<_, i64>(0)?.to_string(),
            name: row.get(1)?,
            state: "LIVE",
            create_time_since_epoch: row.get::<_, i64>(2)?.to_string(),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Versions by `model_id` or by `version_id`; all where no id is given.
pub(crate) fn versions(
    c: &Connection,
    by: &str,
    id: Option<i64>,
) -> Result<Vec<Version>, RegistryError> {
    let column = if by == "model_id" { "m.id" } else { "v.id" };
    let sql = format!("{VERSIONS} WHERE ?1 IS NULL OR {column} = ?1 ORDER BY v.id DESC");
    let mut statement = c.prepare_cached(&sql)?;
    let rows = statement.query_map([id], version)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn version(row: &Row<'_>) -> mizzen_store::rusqlite::Result<Version> {
    let properties: String = row.get(6)?;
    Ok(Version {
        id: row.get::<_, i64>(0)?.to_string(),
        name: row.get::<_, i64>(1)?.to_string(),
        registered_model_id: row.get::<_, i64>(2)?.to_string(),
        registered_model_name: row.get(3)?,
        uri: row.get(4)?,
        model_format_name: row.get(5)?,
        custom_properties: serde_json::from_str(&properties).unwrap_or_default(),
        state: "LIVE",
        create_time_since_epoch: row.get::<_, i64>(7)?.to_string(),
    })
}
