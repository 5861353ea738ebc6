//! The table of served resources: built-in ones, and those of CustomResourceDefinitions.
//!
//! Readers take a snapshot; the committer alone replaces it, in the order of resource versions, so
//! a client that created a definition can use it in its next request.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, RwLock},
};

use serde_json::Value;

use super::{Resource, builtin, custom};

/// A consistent view of what is served.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// By group, version and plural name; ordered, so that discovery is stable.
    resources: BTreeMap<(String, String, String), Arc<Resource>>,
    /// Tables of custom resources by the name of their definition.
    custom: HashMap<String, Vec<Arc<Resource>>>,
}

impl Snapshot {
    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.resources.get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    /// Every resource, by group, then version, then name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.values()
    }

    /// The resources of one CustomResourceDefinition, by the definition's name.
    pub(crate) fn of_definition(&self, name: &str) -> &[Arc<Resource>] {
        self.custom.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// One served resource of a table, whichever version.
    pub(crate) fn of_table(&self, table: &str) -> Option<&Arc<Resource>> {
        self.resources.values().find(|r| &*r.table == table)
    }

    /// A resource by its kind.
    pub(crate) fn of_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.resources.values().find(|r| r.group == group && r.version == version && r.kind == kind)
    }
}

/// The current [`Snapshot`].
#[derive(Debug)]
pub(crate) struct Registry {
    current: RwLock<Arc<Snapshot>>,
}

impl Registry {
    /// The built-in resources alone.
    pub(crate) fn new() -> Self {
        let resources = builtin::resources()
            .map(|r| ((r.group.clone(), r.version.clone(), r.plural.clone()), Arc::new(r)))
            .collect();
        let snapshot = Snapshot { resources, custom: HashMap::new() };
        Self { current: RwLock::new(Arc::new(snapshot)) }
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.current.read().expect("no panic while held").clone()
    }

    /// Takes over a definition that was created or changed (`Some`) or is gone.
    pub(crate) fn define(&self, name: &str, definition: Option<&Value>) {
        let mut current = self.current.write().expect("no panic while held");
        let mut resources = current.resources.clone();
        let mut by_name = current.custom.clone();
        for old in by_name.remove(name).into_iter().flatten() {
            resources.remove(&(old.group.clone(), old.version.clone(), old.plural.clone()));
        }
        if let Some(definition) = definition {
            let served: Vec<_> = custom::resources(definition).into_iter().map(Arc::new).collect();
            for resource in &served {
                let key =
                    (resource.group.clone(), resource.version.clone(), resource.plural.clone());
                resources.insert(key, resource.clone());
            }
            by_name.insert(name.to_owned(), served);
        }
        *current = Arc::new(Snapshot { resources, custom: by_name });
    }
}
