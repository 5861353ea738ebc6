//! A container's environment, as Kubernetes builds it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, Pod};

/// ConfigMaps and Secrets that a Pod may read, fetched beforehand. A missing one is absent here.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    pub(crate) config_maps: BTreeMap<String, Data>,
    pub(crate) secrets: BTreeMap<String, Data>,
}

/// The keys of a ConfigMap or Secret.
pub(crate) type Data = BTreeMap<String, Vec<u8>>;

/// Why an environment or a volume cannot be made yet: it may be later, so the Pod waits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("{kind} `{name}` does not exist in the pod's namespace")]
    Missing { kind: &'static str, name: String },
    #[error("{kind} `{name}` has no key `{key}`")]
    MissingKey { kind: &'static str, name: String, key: String },
    #[error("key `{key}` of {kind} `{name}` is not text, which a variable must be")]
    NotText { kind: &'static str, name: String, key: String },
    #[error("`{field}` is not available on this machine; {instead}")]
    Unsupported { field: String, instead: &'static str },
}

pub(crate) const CONFIG_MAP: &str = "configmap";
pub(crate) const SECRET: &str = "secret";

impl Sources {
    /// One source's data; `None` where it is missing and may be.
    pub(crate) fn get(
        &self,
        kind: &'static str,
        name: &str,
        optional: Option<bool>,
    ) -> Result<Option<&Data>, ConfigError> {
        let of_kind = if kind == SECRET { &self.secrets } else { &self.config_maps };
        match (of_kind.get(name), optional) {
            (None, Some(true)) => Ok(None),
            (None, _) => Err(ConfigError::Missing { kind, name: name.to_owned() }),
            (data, _) => Ok(data),
        }
    }

    fn key(
        &self,
        kind: &'static str,
        name: &str,
        key: &str,
        optional: Option<bool>,
    ) -> Result<Option<String>, ConfigError> {
        let (name_, key_) = (name.to_owned(), key.to_owned());
        match (self.get(kind, name, optional)?.and_then(|data| data.get(key)), optional) {
            (None, Some(true)) => Ok(None),
            (None, _) => Err(ConfigError::MissingKey { kind, name: name_, key: key_ }),
            (Some(bytes), _) => match String::from_utf8(bytes.clone()) {
                Ok(text) => Ok(Some(text)),
                Err(_) => Err(ConfigError::NotText { kind, name: name_, key: key_ }),
            },
        }
    }
}

/// The variables a container declares, in order, each name once: `envFrom` first, then `env`, whose
/// values may refer to those before them.
pub(crate) fn declared(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
) -> Result<Vec<(String, String)>, ConfigError> {
    let mut env = Env::default();
    for from in container.env_from.iter().flatten() {
        let source = match (&from.config_map_ref, &from.secret_ref) {
            (Some(map), _) => sources.get(CONFIG_MAP, &map.name, map.optional)?,
            (None, Some(secret)) => sources.get(SECRET, &secret.name, secret.optional)?,
            (None, None) => None,
        };
        let prefix = from.prefix.as_deref().unwrap_or("");
        for (key, bytes) in source.into_iter().flatten() {
            // As Kubernetes: what cannot be a variable is left out.
            if let Ok(text) = std::str::from_utf8(bytes) {
                env.set(format!("{prefix}{key}"), text.to_owned());
            }
        }
    }
    for var in container.env.iter().flatten() {
        if let Some(value) = value(pod, var, sources, &env)? {
            env.set(var.name.clone(), value);
        }
    }
    Ok(env.0)
}

fn value(
    pod: &Pod,
    var: &EnvVar,
    sources: &Sources,
    env: &Env,
) -> Result<Option<String>, ConfigError> {
    let Some(from) = &var.value_from else {
        return Ok(Some(expand(var.value.as_deref().unwrap_or(""), |name| env.get(name))));
    };
    match from {
        EnvVarSource { config_map_key_ref: Some(map), .. } => {
            sources.key(CONFIG_MAP, &map.name, &map.key, map.optional)
        }
        EnvVarSource { secret_key_ref: Some(secret), .. } => {
            sources.key(SECRET, &secret.name, &secret.key, secret.optional)
        }
        EnvVarSource { field_ref: Some(field), .. } => {
            field_value(pod, &field.field_path).map(Some)
        }
        _ => Err(ConfigError::Unsupported {
            field: format!("env `{}` valueFrom.resourceFieldRef", var.name),
            instead: "give the variable a value",
        }),
    }
}

fn field_value(pod: &Pod, path: &str) -> Result<String, ConfigError> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let value = match path {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "metadata.uid" => meta.uid.clone(),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()),
        "status.podIP" | "status.hostIP" => Some("127.0.0.1".into()),
        _ => {
            let of = |map: &Option<BTreeMap<String, String>>, prefix: &str| {
                let key = path.strip_prefix(prefix)?.strip_suffix("']")?;
                Some(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default())
            };
            let found = of(&meta.labels, "metadata.labels['")
                .or_else(|| of(&meta.annotations, "metadata.annotations['"));
            return found.ok_or_else(|| ConfigError::Unsupported {
                field: format!("fieldRef `{path}`"),
                instead: "use metadata.name, namespace, uid, labels['…'] or annotations['…']",
            });
        }
    };
    Ok(value.unwrap_or_default())
}

/// Variables in the order they were first set; a later value replaces an earlier one.
#[derive(Debug, Default)]
pub(crate) struct Env(pub(crate) Vec<(String, String)>);

impl Env {
    pub(crate) fn set(&mut self, name: String, value: String) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Replaces `$(NAME)` where the name is known. `$$` is a `$` that starts nothing; anything else
/// stays as it is.
pub(crate) fn expand<'a>(text: &str, get: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match get(name) {
                Some(value) => out.push_str(value),
                None => out.extend(["$(", name, ")"]),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references_expand_as_in_kubernetes() {
        let get = |name: &str| match name {
            "A" => Some("1"),
            "EMPTY" => Some(""),
            "NESTED" => Some("$(A)"),
            _ => None,
        };
        #[rustfmt::skip]
        let cases = [
            // what the case shows        text              expanded
            ("known",                     "x$(A)y$(A)",     "x1y1"),
            ("unknown stays",             "$(B)",           "$(B)"),
            ("escaped",                   "$$(A)",          "$(A)"),
            ("escaped, then known",       "$$$(A)",         "$1"),
            ("empty value",               "[$(EMPTY)]",     "[]"),
            ("values are not expanded",   "$(NESTED)",      "$(A)"),
            ("shell syntax stays",        "$A ${A} $",      "$A ${A} $"),
            ("unclosed stays",            "$(A",            "$(A"),
            ("no name",                   "$()",            "$()"),
        ];
        for (shows, text, want) in cases {
            assert_eq!(expand(text, get), want, "{shows}");
        }
    }

    fn pod(container: serde_json::Value) -> (Pod, Container) {
        let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"a/b": "l"}}});
        (serde_json::from_value(pod).unwrap(), serde_json::from_value(container).unwrap())
    }

    fn sources() -> Sources {
        let data = |key: &str, value: &[u8]| BTreeMap::from([(key.to_owned(), value.to_vec())]);
        Sources {
            config_maps: BTreeMap::from([("cm".into(), data("lr", b"0.1"))]),
            secrets: BTreeMap::from([
                ("s".into(), data("token", b"t")),
                ("bin".into(), data("k", &[255])),
            ]),
        }
    }

    #[test]
    fn an_environment_is_built_from_everywhere_and_env_wins() {
        let (pod, container) = pod(json!({"name": "c",
        "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}},
                    {"secretRef": {"name": "gone", "optional": true}},
                    {"secretRef": {"name": "s"}}],
        "env": [
            {"name": "A", "value": "1"},
            {"name": "B", "value": "$(A)-$(LATER)"},
            {"name": "LATER", "value": "x"},
            {"name": "LR", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "lr"}}},
            {"name": "NONE", "valueFrom": {"secretKeyRef": {"name": "s", "key": "no", "optional": true}}},
            {"name": "token", "value": "mine"},
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a/b']"}}},
        ]}));
        let env = declared(&pod, &container, &sources()).unwrap();
        let env: Vec<_> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            env,
            [
                "P_lr=0.1",
                "token=mine",
                "A=1",
                "B=1-$(LATER)",
                "LATER=x",
                "LR=0.1",
                "NAME=p",
                "LABEL=l"
            ]
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        #[rustfmt::skip]
        let cases = [
            // what the case shows   valueFrom                                                  the error names
            ("no such configmap",    json!({"configMapKeyRef": {"name": "gone", "key": "k"}}), "configmap `gone`"),
            ("no such key",          json!({"secretKeyRef": {"name": "s", "key": "k"}}),       "no key `k`"),
            ("not text",             json!({"secretKeyRef": {"name": "bin", "key": "k"}}),     "not text"),
            ("unknown field",        json!({"fieldRef": {"fieldPath": "spec.hostname"}}),      "`spec.hostname`"),
            ("resources",            json!({"resourceFieldRef": {"resource": "limits.cpu"}}),  "resourceFieldRef"),
        ];
        for (shows, from, names) in cases {
            let (pod, container) =
                pod(json!({"name": "c", "env": [{"name": "X", "valueFrom": from}]}));
            let error = declared(&pod, &container, &sources()).unwrap_err().to_string();
            assert!(error.contains(names), "{shows}: {error}");
        }
    }
}
