//! From untyped fields to a [`ModelConfig`], for both the text and the JSON form.

use std::{collections::BTreeMap, time::Duration};

use mizzen_types::DataType;

use super::{
    ConfigError, DynamicBatching, InstanceGroup, InstanceKind, ModelConfig, Parsed, QueuePolicy,
    TensorConfig, TimeoutAction, VersionPolicy, Warning,
    text::{Field, Message, Value, parse},
};

/// Reads `config.pbtxt`; `file` names it in errors.
///
/// # Errors
/// [`ConfigError`] with file, line, field, what was expected and what is there.
pub fn read_pbtxt(file: &str, text: &str) -> Result<Parsed, ConfigError> {
    read(file, Form::Text, &parse(file, text)?)
}

/// Which of the two forms the fields come from; they differ in how enums and maps are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    Json,
}

pub(super) fn read(file: &str, form: Form, message: &Message) -> Result<Parsed, ConfigError> {
    let mut reader = Reader { file, form, warnings: Vec::new() };
    let config = reader.model(message)?;
    Ok(Parsed { config, warnings: reader.warnings })
}

/// What a message may hold besides the fields that are read.
struct Schema {
    name: &'static str,
    /// Fields that may stand more than once.
    repeated: &'static [&'static str],
    /// Fields that are known and not honoured yet.
    ignored: &'static [&'static str],
}

const MODEL: Schema = Schema {
    name: "ModelConfig",
    repeated: &[
        "input",
        "output",
        "batch_input",
        "batch_output",
        "instance_group",
        "cc_model_filenames",
        "metric_tags",
        "parameters",
        "model_warmup",
    ],
    ignored: &[
        "runtime",
        "batch_input",
        "batch_output",
        "optimization",
        "cc_model_filenames",
        "metric_tags",
        "model_warmup",
        "model_operations",
        "model_transaction_policy",
        "model_repository_agents",
        "response_cache",
        "model_metrics",
    ],
};

const TENSOR: Schema = Schema {
    name: "ModelInput",
    repeated: &["dims"],
    ignored: &[
        "format",
        "is_shape_tensor",
        "allow_ragged_batch",
        "optional",
        "is_non_linear_format_io",
        "label_filename",
    ],
};

const RESHAPE: Schema = Schema { name: "ModelTensorReshape", repeated: &["shape"], ignored: &[] };

const BATCHING: Schema = Schema {
    name: "ModelDynamicBatching",
    repeated: &["preferred_batch_size", "priority_queue_policy"],
    ignored: &[],
};

const POLICY_ENTRY: Schema =
    Schema { name: "priority_queue_policy entry", repeated: &[], ignored: &[] };

const POLICY: Schema = Schema { name: "ModelQueuePolicy", repeated: &[], ignored: &[] };

const GROUP: Schema = Schema {
    name: "ModelInstanceGroup",
    repeated: &["gpus", "secondary_devices", "profile"],
    ignored: &["rate_limiter", "secondary_devices", "profile", "passive", "host_policy"],
};

const VERSIONS: Schema = Schema { name: "ModelVersionPolicy", repeated: &[], ignored: &[] };

const LATEST: Schema = Schema { name: "ModelVersionPolicy.Latest", repeated: &[], ignored: &[] };

const ALL: Schema = Schema { name: "ModelVersionPolicy.All", repeated: &[], ignored: &[] };

const SPECIFIC: Schema =
    Schema { name: "ModelVersionPolicy.Specific", repeated: &["versions"], ignored: &[] };

const ENTRY: Schema = Schema { name: "parameters entry", repeated: &[], ignored: &[] };

const PARAMETER: Schema = Schema { name: "ModelParameter", repeated: &[], ignored: &[] };

/// The version policy and the scheduler are each a choice of one.
const SCHEDULERS: [&str; 3] = ["dynamic_batching", "sequence_batching", "ensemble_scheduling"];

struct Reader<'a> {
    file: &'a str,
    form: Form,
    warnings: Vec<Warning>,
}

type Read<T> = Result<T, ConfigError>;

impl Reader<'_> {
    fn model(&mut self, message: &Message) -> Read<ModelConfig> {
        let mut config = ModelConfig::default();
        let mut scheduler = None;
        for (at, field) in self.fields("", message, &MODEL)? {
            if SCHEDULERS.contains(&field.name.as_str())
                && let Some(other) = scheduler.replace(field.name.as_str())
            {
                return Err(self.wrong(&at, field, "one scheduler", format!("`{other}` as well")));
            }
            match field.name.as_str() {
                "name" => config.name = self.text(&at, field)?,
                "platform" => config.platform = self.text(&at, field)?,
                "backend" => config.backend = self.text(&at, field)?,
                "default_model_filename" => {
                    config.default_model_filename = self.text(&at, field)?
                }
                "version_policy" => config.version_policy = self.version_policy(&at, field)?,
                "max_batch_size" => config.max_batch_size = Some(self.integer(&at, field)?),
                "input" => config.inputs.push(self.tensor(&at, field)?),
                "output" => config.outputs.push(self.tensor(&at, field)?),
                "instance_group" => config.instance_groups.push(self.group(&at, field)?),
                "parameters" => self.parameters(&at, field, &mut config.parameters)?,
                "dynamic_batching" => config.dynamic_batching = Some(self.batching(&at, field)?),
                "sequence_batching" | "ensemble_scheduling" => {
                    return Err(self.wrong(
                        &at,
                        field,
                        "`dynamic_batching` or no scheduler",
                        "one that is not offered yet".to_owned(),
                    ));
                }
                _ => self.other(&at, field, &MODEL)?,
            }
        }
        Ok(config)
    }

    fn tensor(&mut self, at: &str, field: &Field) -> Read<TensorConfig> {
        let (mut name, mut data_type, mut dims, mut reshape) = (None, None, Vec::new(), None);
        for (at, field) in self.fields(at, self.message(at, field)?, &TENSOR)? {
            match field.name.as_str() {
                "name" => name = Some(self.text(&at, field)?),
                "data_type" => data_type = Some(self.data_type(&at, field)?),
                "dims" => dims.push(self.dim(&at, field)?),
                "reshape" => reshape = Some(self.reshape(&at, field)?),
                _ => self.other(&at, field, &TENSOR)?,
            }
        }
        let missing = |what: &str| self.wrong(at, field, what, "none".to_owned());
        Ok(TensorConfig {
            name: name.filter(|n| !n.is_empty()).ok_or_else(|| missing("a `name`"))?,
            data_type: data_type.ok_or_else(|| missing("a `data_type`"))?,
            dims,
            reshape,
        })
    }

    fn reshape(&mut self, at: &str, field: &Field) -> Read<Vec<i64>> {
        let mut shape = Vec::new();
        for (at, field) in self.fields(at, self.message(at, field)?, &RESHAPE)? {
            match field.name.as_str() {
                "shape" => shape.push(self.dim(&at, field)?),
                _ => self.other(&at, field, &RESHAPE)?,
            }
        }
        Ok(shape)
    }

    fn data_type(&self, at: &str, field: &Field) -> Read<DataType> {
        let word = self.word(at, field)?;
        let name = match word.as_str() {
            "TYPE_STRING" => "BYTES",
            "TYPE_BYTES" => "",
            other => other.strip_prefix("TYPE_").unwrap_or(""),
        };
        name.parse().map_err(|_| {
            self.wrong(at, field, "a data type such as `TYPE_FP32`", format!("`{word}`"))
        })
    }

    fn dim(&self, at: &str, field: &Field) -> Read<i64> {
        match self.integer::<i64>(at, field)? {
            0 => Err(self.wrong(at, field, "a size of 1 or more, or -1 for any", "`0`".to_owned())),
            dim if dim < -1 => {
                Err(self.wrong(at, field, "a size of 1 or more, or -1 for any", format!("`{dim}`")))
            }
            dim => Ok(dim),
        }
    }

    fn batching(&mut self, at: &str, field: &Field) -> Read<DynamicBatching> {
        let mut batching = DynamicBatching::default();
        for (at, field) in self.fields(at, self.message(at, field)?, &BATCHING)? {
            match field.name.as_str() {
                "preferred_batch_size" => {
                    batching.preferred_batch_sizes.push(self.integer(&at, field)?);
                }
                "max_queue_delay_microseconds" => {
                    batching.max_queue_delay = self.microseconds(&at, field)?;
                }
                "priority_levels" => batching.priority_levels = self.integer(&at, field)?,
                "default_priority_level" => {
                    batching.default_priority_level = self.integer(&at, field)?;
                }
                "default_queue_policy" => {
                    batching.default_queue_policy = Some(self.policy(&at, field)?);
                }
                "preserve_ordering" => batching.preserve_ordering = self.bool(&at, field)?,
                "priority_queue_policy" => {
                    self.level_policies(&at, field, &mut batching.priority_queue_policies)?;
                }
                _ => self.other(&at, field, &BATCHING)?,
            }
        }
        self.check_levels(at, field, &batching)?;
        Ok(batching)
    }

    fn check_levels(&self, at: &str, field: &Field, batching: &DynamicBatching) -> Read<()> {
        let (levels, default) = (batching.priority_levels, batching.default_priority_level);
        if levels > 0 && !(1..=levels).contains(&default) {
            let want = format!("a `default_priority_level` from 1 to {levels}");
            return Err(self.wrong(at, field, &want, format!("`{default}`")));
        }
        let policies = &batching.priority_queue_policies;
        if let Some(key) = policies.keys().find(|key| !(1..=levels).contains(*key)) {
            let at = format!("{at}.priority_queue_policy");
            let want = format!("levels from 1 to {levels} (`priority_levels`)");
            return Err(self.wrong(&at, field, &want, format!("`{key}`")));
        }
        if !batching.preserve_ordering {
            return Ok(());
        }
        let at = format!("{at}.preserve_ordering");
        if levels > 1 {
            let got = format!("{levels} of them, which overtake one another");
            return Err(self.wrong(&at, field, "at most 1 of `priority_levels` with it", got));
        }
        let delays = |p: &QueuePolicy| {
            p.timeout_action == TimeoutAction::Delay && !p.default_timeout.is_zero()
        };
        if policies.values().chain(&batching.default_queue_policy).any(delays) {
            let got = "`DELAY`, which lets requests be overtaken".to_owned();
            return Err(self.wrong(&at, field, "`timeout_action` `REJECT` with it", got));
        }
        Ok(())
    }

    /// `{ key: 1 value { … } }` in text, `{"1": {…}}` in JSON.
    fn level_policies(
        &mut self,
        at: &str,
        field: &Field,
        into: &mut BTreeMap<u64, QueuePolicy>,
    ) -> Read<()> {
        let message = self.message(at, field)?;
        if self.form == Form::Json {
            for entry in &message.fields {
                let at = format!("{at}.{}", entry.name);
                let level = entry.name.parse().map_err(|_| {
                    self.wrong(&at, entry, "a priority level", format!("`{}`", entry.name))
                })?;
                into.insert(level, self.policy(&at, entry)?);
            }
            return Ok(());
        }
        let (mut key, mut value) = (0, QueuePolicy::default());
        for (at, field) in self.fields(at, message, &POLICY_ENTRY)? {
            match field.name.as_str() {
                "key" => key = self.integer(&at, field)?,
                "value" => value = self.policy(&at, field)?,
                _ => self.other(&at, field, &POLICY_ENTRY)?,
            }
        }
        into.insert(key, value);
        Ok(())
    }

    fn policy(&mut self, at: &str, field: &Field) -> Read<QueuePolicy> {
        let mut policy = QueuePolicy::default();
        for (at, field) in self.fields(at, self.message(at, field)?, &POLICY)? {
            match field.name.as_str() {
                "timeout_action" => {
                    policy.timeout_action = match self.word(&at, field)?.as_str() {
                        "REJECT" => TimeoutAction::Reject,
                        "DELAY" => TimeoutAction::Delay,
                        _ => return Err(self.wrong_value(&at, field, "`REJECT` or `DELAY`")),
                    }
                }
                "default_timeout_microseconds" => {
                    policy.default_timeout = self.microseconds(&at, field)?;
                }
                "allow_timeout_override" => {
                    policy.allow_timeout_override = self.bool(&at, field)?
                }
                "max_queue_size" => policy.max_queue_size = self.integer(&at, field)?,
                _ => self.other(&at, field, &POLICY)?,
            }
        }
        Ok(policy)
    }

    fn group(&mut self, at: &str, field: &Field) -> Read<InstanceGroup> {
        let mut group = InstanceGroup::default();
        for (at, field) in self.fields(at, self.message(at, field)?, &GROUP)? {
            match field.name.as_str() {
                "name" => group.name = self.text(&at, field)?,
                "count" => group.count = self.integer::<usize>(&at, field)?.max(1),
                "gpus" => group.gpus.push(self.integer(&at, field)?),
                "kind" => {
                    group.kind = match self.word(&at, field)?.as_str() {
                        "KIND_AUTO" => InstanceKind::Auto,
                        "KIND_GPU" => InstanceKind::Gpu,
                        "KIND_CPU" => InstanceKind::Cpu,
                        "KIND_MODEL" => InstanceKind::Model,
                        _ => {
                            let want = "`KIND_AUTO`, `KIND_GPU`, `KIND_CPU` or `KIND_MODEL`";
                            return Err(self.wrong_value(&at, field, want));
                        }
                    }
                }
                _ => self.other(&at, field, &GROUP)?,
            }
        }
        Ok(group)
    }

    fn version_policy(&mut self, at: &str, field: &Field) -> Read<VersionPolicy> {
        let mut policy = None;
        for (at, field) in self.fields(at, self.message(at, field)?, &VERSIONS)? {
            let message = self.message(&at, field)?;
            let choice = match field.name.as_str() {
                "latest" => {
                    let mut count = 1usize;
                    for (at, field) in self.fields(&at, message, &LATEST)? {
                        match field.name.as_str() {
                            "num_versions" => count = self.integer::<usize>(&at, field)?.max(1),
                            _ => self.other(&at, field, &LATEST)?,
                        }
                    }
                    VersionPolicy::Latest(count)
                }
                "all" => {
                    for (at, field) in self.fields(&at, message, &ALL)? {
                        self.other(&at, field, &ALL)?;
                    }
                    VersionPolicy::All
                }
                "specific" => {
                    let mut versions = Vec::new();
                    for (at, field) in self.fields(&at, message, &SPECIFIC)? {
                        match field.name.as_str() {
                            "versions" => versions.push(self.integer(&at, field)?),
                            _ => self.other(&at, field, &SPECIFIC)?,
                        }
                    }
                    VersionPolicy::Specific(versions)
                }
                _ => {
                    self.other(&at, field, &VERSIONS)?;
                    continue;
                }
            };
            if policy.replace(choice).is_some() {
                return Err(self.wrong(&at, field, "one policy", "a second".to_owned()));
            }
        }
        Ok(policy.unwrap_or_default())
    }

    /// `{ key: "k" value { string_value: "v" } }` in text, `{"k": {"string_value": "v"}}` in JSON.
    fn parameters(
        &mut self,
        at: &str,
        field: &Field,
        into: &mut BTreeMap<String, String>,
    ) -> Read<()> {
        let message = self.message(at, field)?;
        if self.form == Form::Json {
            for entry in &message.fields {
                let at = format!("{at}.{}", entry.name);
                into.insert(entry.name.clone(), self.parameter(&at, entry)?);
            }
            return Ok(());
        }
        let (mut key, mut value) = (String::new(), String::new());
        for (at, field) in self.fields(at, message, &ENTRY)? {
            match field.name.as_str() {
                "key" => key = self.text(&at, field)?,
                "value" => value = self.parameter(&at, field)?,
                _ => self.other(&at, field, &ENTRY)?,
            }
        }
        into.insert(key, value);
        Ok(())
    }

    fn parameter(&mut self, at: &str, field: &Field) -> Read<String> {
        let mut value = String::new();
        for (at, field) in self.fields(at, self.message(at, field)?, &PARAMETER)? {
            match field.name.as_str() {
                "string_value" => value = self.text(&at, field)?,
                _ => self.other(&at, field, &PARAMETER)?,
            }
        }
        Ok(value)
    }

    /// The fields with their full names, after a check that only repeated ones repeat.
    fn fields<'m>(
        &self,
        at: &str,
        message: &'m Message,
        schema: &Schema,
    ) -> Read<Vec<(String, &'m Field)>> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let mut fields = Vec::with_capacity(message.fields.len());
        for field in &message.fields {
            let name = field.name.as_str();
            let count = counts.entry(name).or_default();
            let dot = if at.is_empty() { "" } else { "." };
            let full = if schema.repeated.contains(&name) {
                format!("{at}{dot}{name}[{count}]")
            } else {
                format!("{at}{dot}{name}")
            };
            if *count > 0 && !schema.repeated.contains(&name) {
                return Err(self.wrong(&full, field, "one value", "a second".to_owned()));
            }
            *count += 1;
            fields.push((full, field));
        }
        Ok(fields)
    }

    /// A field that no match arm reads.
    fn other(&mut self, at: &str, field: &Field, schema: &Schema) -> Read<()> {
        if !schema.ignored.contains(&field.name.as_str()) {
            let want = format!("a field of {}", schema.name);
            return Err(self.wrong(at, field, &want, format!("`{}`", field.name)));
        }
        if !is_default(&field.value) {
            self.warnings.push(Warning { line: field.line, field: at.to_owned() });
        }
        Ok(())
    }

    fn message<'m>(&self, at: &str, field: &'m Field) -> Read<&'m Message> {
        match &field.value {
            Value::Message(message) => Ok(message),
            _ => Err(self.wrong_value(at, field, "a message in braces")),
        }
    }

    fn text(&self, at: &str, field: &Field) -> Read<String> {
        match &field.value {
            Value::Text(text) => Ok(text.clone()),
            _ => Err(self.wrong_value(at, field, "text in quotes")),
        }
    }

    /// The name of an enum's value: bare in text, quoted in JSON.
    fn word(&self, at: &str, field: &Field) -> Read<String> {
        match (&field.value, self.form) {
            (Value::Word(word), Form::Text) | (Value::Text(word), Form::Json) => Ok(word.clone()),
            (_, Form::Text) => Err(self.wrong_value(at, field, "a name without quotes")),
            (_, Form::Json) => Err(self.wrong_value(at, field, "a name in quotes")),
        }
    }

    fn bool(&self, at: &str, field: &Field) -> Read<bool> {
        match &field.value {
            Value::Word(w) if matches!(w.as_str(), "true" | "True" | "t") => Ok(true),
            Value::Word(w) if matches!(w.as_str(), "false" | "False" | "f") => Ok(false),
            Value::Number(n) if self.form == Form::Text && n == "1" => Ok(true),
            Value::Number(n) if self.form == Form::Text && n == "0" => Ok(false),
            _ => Err(self.wrong_value(at, field, "`true` or `false`")),
        }
    }

    fn microseconds(&self, at: &str, field: &Field) -> Read<Duration> {
        Ok(Duration::from_micros(self.integer(at, field)?))
    }

    /// JSON may quote 64-bit numbers.
    fn integer<T: TryFrom<i128>>(&self, at: &str, field: &Field) -> Read<T> {
        let number = match (&field.value, self.form) {
            (Value::Number(number), _) | (Value::Text(number), Form::Json) => integer(number),
            _ => None,
        };
        let number = number.ok_or_else(|| self.wrong_value(at, field, "an integer"))?;
        T::try_from(number).map_err(|_| {
            let want = if number < 0 { "an integer of 0 or more" } else { "a smaller integer" };
            self.wrong_value(at, field, want)
        })
    }

    fn wrong_value(&self, at: &str, field: &Field, expected: &str) -> ConfigError {
        self.wrong(at, field, expected, field.value.show())
    }

    fn wrong(&self, at: &str, field: &Field, expected: &str, got: String) -> ConfigError {
        ConfigError {
            file: self.file.to_owned(),
            line: field.line,
            field: at.to_owned(),
            expected: expected.to_owned(),
            got,
        }
    }
}

/// A decimal, hexadecimal or (in text, by its leading zero) octal integer of at most 64 bits.
fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (radix, digits) = match digits {
        _ if digits.starts_with("0x") || digits.starts_with("0X") => (16, &digits[2..]),
        _ if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    let plain = !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
    let magnitude = i128::from(u64::from_str_radix(digits, radix).ok().filter(|_| plain)?);
    Some(if negative { -magnitude } else { magnitude })
}

/// Whether writing this field says nothing: what Triton's own full form writes for fields unset.
fn is_default(value: &Value) -> bool {
    match value {
        Value::Message(message) => message.fields.iter().all(|f| is_default(&f.value)),
        Value::Text(text) => matches!(text.as_str(), "" | "FORMAT_NONE" | "PRIORITY_DEFAULT"),
        Value::Word(word) => matches!(word.as_str(), "false" | "FORMAT_NONE" | "PRIORITY_DEFAULT"),
        Value::Number(number) => number == "0",
    }
}

#[cfg(test)]
mod tests;
