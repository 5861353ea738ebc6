//! The JSON form: what a load call may carry, and what the configuration call shows.

use serde_json::{Map, Value as Json, json};

use super::{
    ConfigError, DynamicBatching, InstanceGroup, ModelConfig, Parsed, QueuePolicy, TensorConfig,
    TimeoutAction, VersionPolicy,
    reader::{Form, read},
    text::{Field, Message, Value},
};

/// Reads a `ModelConfig` in JSON, as a load call carries it; `file` names it in errors. Field names
/// may be snake_case or, as proto3 JSON also allows, camelCase.
///
/// # Errors
/// [`ConfigError`]; its line is where the JSON itself is broken, and absent for a wrong field.
pub fn read_json(file: &str, text: &str) -> Result<Parsed, ConfigError> {
    let wrong = |line: Option<u32>, expected: &str, got: String| ConfigError {
        file: file.to_owned(),
        line,
        field: String::new(),
        expected: expected.to_owned(),
        got,
    };
    // serde_json bounds the nesting.
    let json: Json = serde_json::from_str(text)
        .map_err(|e| wrong(u32::try_from(e.line()).ok(), "JSON", e.to_string()))?;
    match json {
        Json::Object(map) => read(file, Form::Json, &message(map)),
        other => Err(wrong(
            None,
            "a JSON object",
            scalar(other).map_or_else(|| "a list or null".to_owned(), |v| v.show()),
        )),
    }
}

fn message(map: Map<String, Json>) -> Message {
    let mut fields = Vec::new();
    for (name, value) in map {
        push(&mut fields, &snake_case(&name), value);
    }
    Message { fields }
}

fn push(fields: &mut Vec<Field>, name: &str, value: Json) {
    let value = match value {
        Json::Null => return,
        Json::Array(elements) => {
            elements.into_iter().for_each(|element| push(fields, name, element));
            return;
        }
        Json::Object(map) if name == "parameters" => Value::Message(entries(map)),
        Json::Object(map) => Value::Message(message(map)),
        other => match scalar(other) {
            Some(value) => value,
            None => return,
        },
    };
    fields.push(Field { name: name.to_owned(), line: None, value });
}

/// The entries of a map, whose keys stay as they are.
fn entries(map: Map<String, Json>) -> Message {
    let mut fields = Vec::new();
    for (name, value) in map {
        push(&mut fields, &name, value);
    }
    Message { fields }
}

fn scalar(value: Json) -> Option<Value> {
    match value {
        Json::Bool(bool) => Some(Value::Word(bool.to_string())),
        Json::Number(number) => Some(Value::Number(number.to_string())),
        Json::String(text) => Some(Value::Text(text)),
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    }
}

fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

/// The configuration as Triton's own endpoint writes it: snake_case, 64-bit numbers as numbers,
/// fields that are unset with their defaults.
pub fn to_json(config: &ModelConfig) -> Json {
    let mut json = json!({
        "name": config.name,
        "platform": config.platform,
        "backend": config.backend,
        "runtime": "",
        "version_policy": version_policy(&config.version_policy),
        "max_batch_size": config.max_batch_size.unwrap_or(0),
        "input": config.inputs.iter().map(input).collect::<Vec<_>>(),
        "output": config.outputs.iter().map(output).collect::<Vec<_>>(),
        "batch_input": [],
        "batch_output": [],
        "optimization": {
            "priority": "PRIORITY_DEFAULT",
            "input_pinned_memory": { "enable": false },
            "output_pinned_memory": { "enable": false },
            "gather_kernel_buffer_threshold": 0,
            "eager_batching": false,
        },
        "instance_group": groups(config),
        "default_model_filename": config.default_model_filename,
        "cc_model_filenames": {},
        "metric_tags": {},
        "parameters": config.parameters.iter()
            .map(|(key, value)| (key.clone(), json!({ "string_value": value })))
            .collect::<Map<_, _>>(),
        "model_warmup": [],
    });
    if let (Some(map), Some(b)) = (json.as_object_mut(), &config.dynamic_batching) {
        map.insert("dynamic_batching".to_owned(), batching(b));
    }
    json
}

fn version_policy(policy: &VersionPolicy) -> Json {
    match policy {
        VersionPolicy::Latest(count) => json!({ "latest": { "num_versions": count } }),
        VersionPolicy::All => json!({ "all": {} }),
        VersionPolicy::Specific(versions) => json!({ "specific": { "versions": versions } }),
    }
}

/// Triton's name of a data type; BYTES is `TYPE_STRING` there.
fn data_type(tensor: &TensorConfig) -> String {
    match tensor.data_type {
        mizzen_types::DataType::Bytes => "TYPE_STRING".to_owned(),
        other => format!("TYPE_{other}"),
    }
}

fn input(tensor: &TensorConfig) -> Json {
    let json = json!({
        "name": tensor.name,
        "data_type": data_type(tensor),
        "format": "FORMAT_NONE",
        "dims": tensor.dims,
        "is_shape_tensor": false,
        "allow_ragged_batch": false,
        "optional": false,
        "is_non_linear_format_io": false,
    });
    with_reshape(json, tensor)
}

fn output(tensor: &TensorConfig) -> Json {
    let json = json!({
        "name": tensor.name,
        "data_type": data_type(tensor),
        "dims": tensor.dims,
        "label_filename": "",
        "is_shape_tensor": false,
        "is_non_linear_format_io": false,
    });
    with_reshape(json, tensor)
}

fn with_reshape(mut json: Json, tensor: &TensorConfig) -> Json {
    if let (Some(map), Some(shape)) = (json.as_object_mut(), &tensor.reshape) {
        map.insert("reshape".to_owned(), json!({ "shape": shape }));
    }
    json
}

fn groups(config: &ModelConfig) -> Vec<Json> {
    let group = |(at, group): (usize, &InstanceGroup)| {
        let name = if group.name.is_empty() {
            format!("{}_{at}", config.name)
        } else {
            group.name.clone()
        };
        json!({
            "name": name,
            "kind": group.kind.as_str(),
            "count": group.count,
            "gpus": group.gpus,
            "secondary_devices": [],
            "profile": [],
            "passive": false,
            "host_policy": "",
        })
    };
    config.instance_groups.iter().enumerate().map(group).collect()
}

fn batching(batching: &DynamicBatching) -> Json {
    let levels: serde_json::Map<String, Json> = batching
        .priority_queue_policies
        .iter()
        .map(|(level, policy)| (level.to_string(), queue_policy(policy)))
        .collect();
    let mut json = json!({
        "preferred_batch_size": batching.preferred_batch_sizes,
        "max_queue_delay_microseconds": micros(batching.max_queue_delay),
        "preserve_ordering": batching.preserve_ordering,
        "priority_levels": batching.priority_levels,
        "default_priority_level": batching.default_priority_level,
        "priority_queue_policy": levels,
    });
    if let (Some(map), Some(policy)) = (json.as_object_mut(), &batching.default_queue_policy) {
        map.insert("default_queue_policy".to_owned(), queue_policy(policy));
    }
    json
}

fn queue_policy(policy: &QueuePolicy) -> Json {
    let action = match policy.timeout_action {
        TimeoutAction::Reject => "REJECT",
        TimeoutAction::Delay => "DELAY",
    };
    json!({
        "timeout_action": action,
        "default_timeout_microseconds": micros(policy.default_timeout),
        "allow_timeout_override": policy.allow_timeout_override,
        "max_queue_size": policy.max_queue_size,
    })
}

fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
