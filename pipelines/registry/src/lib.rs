//! The model registry: models, their versions, where each version lies and what is said of it.
//!
//! [`Registry`] keeps them in the store; [`rest`] answers for it in the nouns and shapes of Kubeflow's
//! Model Registry (`/api/model_registry/v1alpha3`), of which this is a part: models and versions can be
//! entered, listed and read. Updates, archiving and serving environments are not there yet.

mod error;
pub mod rest;
mod tables;

pub use error::RegistryError;
use mizzen_store::{Store, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A model: a name under which versions are counted.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Model {
    /// Its id, a number as text.
    pub id: String,
    /// Its name, unique.
    pub name: String,
    /// Always `LIVE` so far.
    pub state: &'static str,
    /// Milliseconds since the epoch, as text.
    pub create_time_since_epoch: String,
}

/// A version of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// Its id, a number as text.
    pub id: String,
    /// The version's number as text, counted from 1.
    pub name: String,
    /// The model's id.
    pub registered_model_id: String,
    /// The model's name.
    pub registered_model_name: String,
    /// Where it lies.
    pub uri: String,
    /// Its format, such as `onnx`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_format_name: Option<String>,
    /// What is said of it, as Kubeflow's typed values.
    pub custom_properties: Map<String, Value>,
    /// Always `LIVE` so far.
    pub state: &'static str,
    /// Milliseconds since the epoch, as text.
    pub create_time_since_epoch: String,
}

/// A version to enter.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewVersion {
    /// The model's name; the model is made where there is none.
    pub name: String,
    /// Where it lies.
    pub uri: String,
    /// Its format.
    #[serde(default)]
    pub model_format_name: Option<String>,
    /// What is said of it.
    #[serde(default)]
    pub custom_properties: Map<String, Value>,
}

/// Names are parts of paths and labels elsewhere, so they are kept to what fits there.
const NAME_MAX: usize = 200;

/// The registry over a store; clones share it.
#[derive(Clone)]
pub struct Registry {
    store: Store,
}

impl Registry {
    /// The registry kept in this store.
    ///
    /// # Errors
    /// What the store refused.
    pub fn open(store: Store) -> Result<Self, StoreError> {
        store.migrate("model-registry", tables::STEPS)?;
        Ok(Self { store })
    }

    /// Enters a version under its model's next number. The newest version entered again, with the same
    /// place and properties, stays the newest: a step that is repeated registers once.
    ///
    /// # Errors
    /// [`RegistryError::Invalid`] naming the field, or the store's error.
    pub async fn register(&self, new: NewVersion, now_ms: i64) -> Result<Version, RegistryError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        if new.name.is_empty() || new.name.len() > NAME_MAX || !new.name.chars().all(plain) {
            let want = "1 to 200 letters, digits, `-`, `_`, `.` and `/`";
            return Err(RegistryError::invalid("name", &new.name, want));
        }
        if new.uri.is_empty() {
            return Err(RegistryError::invalid(
                "uri",
                &new.uri,
                "where the model lies, as file:///…",
            ));
        }
        self.store.write(move |tx| tables::register(tx, &new, now_ms)).await
    }

    /// Models by name, or the one of a name.
    ///
    /// # Errors
    /// The store's error.
    pub fn models(&self, name: Option<&str>) -> Result<Vec<Model>, RegistryError> {
        self.store.read(|c| tables::models(c, name))
    }

    /// Versions, newest first: all, or those of the model with this id.
    ///
    /// # Errors
    /// The store's error.
    pub fn versions(&self, model: Option<i64>) -> Result<Vec<Version>, RegistryError> {
        self.store.read(|c| tables::versions(c, "model_id", model))
    }

    /// The version of this id.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`], or the store's error.
    pub fn version(&self, id: i64) -> Result<Version, RegistryError> {
        let found = self.store.read(|c| tables::versions(c, "version_id", Some(id)))?;
        found
            .into_iter()
            .next()
            .ok_or_else(|| RegistryError::NotFound(format!("model version `{id}`")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry() -> (tempfile::TempDir, Registry) {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(Store::open(&dir.path().join("db")).unwrap()).unwrap();
        (dir, registry)
    }

    fn new(name: &str, uri: &str) -> NewVersion {
        NewVersion { name: name.into(), uri: uri.into(), ..NewVersion::default() }
    }

    #[tokio::test]
    async fn versions_are_counted_for_each_model_and_a_repeat_is_the_same() {
        let (_dir, registry) = registry();
        let mut numbers = Vec::new();
        for (name, uri) in [("a", "/1"), ("b", "/1"), ("a", "/2"), ("a", "/2"), ("a", "/1")] {
            numbers.push(registry.register(new(name, uri), 1).await.unwrap().name);
        }
        assert_eq!(numbers, ["1", "1", "2", "2", "3"]);
        assert_eq!(registry.models(None).unwrap().len(), 2);
        let a = registry.models(Some("a")).unwrap()[0].id.parse().unwrap();
        let listed: Vec<_> =
            registry.versions(Some(a)).unwrap().into_iter().map(|v| v.uri).collect();
        assert_eq!(listed, ["/1", "/2", "/1"], "newest first");
    }

    #[tokio::test]
    async fn what_cannot_be_a_model_is_refused_by_field() {
        let (_dir, registry) = registry();
        for (field, version) in
            [("name", new("a b", "/1")), ("name", new("", "/1")), ("uri", new("a", ""))]
        {
            let error = registry.register(version, 1).await.unwrap_err();
            assert!(error.to_string().contains(&format!("`{field}`")), "{error}");
        }
        assert!(registry.models(None).unwrap().is_empty());
    }
}
