//! The configuration as a whole: read, warned of, refused, written and read again.

use std::time::Duration;

use mizzen_types::DataType;
use proptest::prelude::*;

use super::*;

/// Every kind of field, in the forms that people write.
const FULL: &str = r#"
# A comment.
name: "resnet"
platform: "onnxruntime_onnx"
backend: 'onnxruntime'
max_batch_size: 64
input [
  {
    name: "x" data_type: TYPE_FP32
    dims: [ 3, -1, 224 ]
  },
  { name: "text", data_type: TYPE_STRING, dims: [ 1 ], reshape: { shape: [ ] } }
]
output { name: "y"; data_type: TYPE_INT64; dims: 1000; }
version_policy: { specific { versions: [1, 3] } }
instance_group [ { count: 2 kind: KIND_GPU gpus: [ 0, 1 ] }, { kind: KIND_CPU } ]
dynamic_batching {
  preferred_batch_size: [ 4, 8 ]
  max_queue_delay_microseconds: 100
  priority_levels: 2
  default_priority_level: 1
  default_queue_policy {
    timeout_action: DELAY
    default_timeout_microseconds: 5000
    allow_timeout_override: true
    max_queue_size: 16
  }
  priority_queue_policy { key: 2 value { timeout_action: REJECT max_queue_size: 4 } }
}
default_model_filename: "resnet.onnx"
parameters { key: "intra_op_thread_count" value: { string_value: "2" } }
parameters [ { key: "a" value { string_value: "b" } } ]
"#;

fn pbtxt(text: &str) -> Result<Parsed, ConfigError> {
    read_pbtxt("config.pbtxt", text)
}

#[test]
fn everything_honoured_is_read() {
    let Parsed { config, warnings } = pbtxt(FULL).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(config.name, "resnet");
    assert_eq!((&*config.platform, &*config.backend), ("onnxruntime_onnx", "onnxruntime"));
    assert_eq!(config.max_batch_size, Some(64));
    assert_eq!(config.inputs[0].dims, [3, -1, 224]);
    assert_eq!(config.inputs[1].data_type, Some(DataType::Bytes));
    assert_eq!(config.inputs[1].reshape(), Some(vec![]));
    assert_eq!((&*config.outputs[0].name, config.outputs[0].dims()), ("y", vec![1000]));
    assert_eq!(config.version_policy, VersionPolicy::Specific(vec![1, 3]));
    let groups: Vec<_> =
        config.instance_groups.iter().map(|g| (g.kind, g.count, g.gpus.clone())).collect();
    assert_eq!(groups, [(InstanceKind::Gpu, 2, vec![0, 1]), (InstanceKind::Cpu, 0, vec![])]);
    let batching = config.dynamic_batching.clone().unwrap();
    assert_eq!(batching.preferred_batch_sizes, [4, 8]);
    assert_eq!(batching.max_queue_delay, Duration::from_micros(100));
    assert_eq!((batching.priority_levels, batching.default_priority_level), (2, 1));
    let policy = QueuePolicy {
        timeout_action: TimeoutAction::Delay,
        default_timeout: Duration::from_millis(5),
        allow_timeout_override: true,
        max_queue_size: 16,
    };
    assert_eq!(batching.default_queue_policy, Some(policy));
    let second = QueuePolicy { max_queue_size: 4, ..QueuePolicy::default() };
    assert_eq!(batching.priority_queue_policies, [(2, second)].into());
    assert!(!batching.preserve_ordering);
    let ordered = pbtxt("dynamic_batching { preserve_ordering: true }").unwrap().config;
    assert!(ordered.dynamic_batching.unwrap().preserve_ordering);
    assert_eq!(config.default_model_filename, "resnet.onnx");
    assert_eq!(config.parameter("intra_op_thread_count"), Some("2"));
    assert_eq!(config.parameter("a"), Some("b"));
}

#[test]
fn nothing_is_a_configuration_too() {
    assert_eq!(pbtxt("").unwrap(), Parsed::default());
    assert_eq!(
        pbtxt("dynamic_batching { }").unwrap().config.dynamic_batching,
        Some(DynamicBatching::default())
    );
    let latest = pbtxt("version_policy: { latest: { num_versions: 3 } }").unwrap();
    assert_eq!(latest.config.version_policy, VersionPolicy::Latest(3));
    let all = pbtxt("version_policy: {all{}}").unwrap();
    assert_eq!(all.config.version_policy, VersionPolicy::All);
}

#[test]
fn what_is_known_and_not_honoured_is_a_warning_with_its_line() {
    let text = "
optimization { graph { level: 1 } input_pinned_memory { enable: true } }
input { name: 'x' data_type: TYPE_FP32 dims: 1 allow_ragged_batch: true optional: false }
instance_group { count: 1 rate_limiter { priority: 2 } passive: false }
sequence_batching { direct { } max_sequence_idle_microseconds: 5 }
response_cache { enable: true }
model_operations { }";
    let warnings = pbtxt(text).unwrap().warnings;
    let warnings: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "line 2: field `optimization.graph` is not honoured yet: the engine optimises as it does by itself",
            "line 3: field `input[0].allow_ragged_batch` is not honoured yet: requests share a batch where their shapes are equal",
            "line 4: field `instance_group[0].rate_limiter` is not honoured yet: instances run whenever they have work",
            "line 5: field `sequence_batching` is not honoured yet: each request stands alone; there is no sequence scheduler",
            "line 6: field `response_cache` is not honoured yet: every request is computed",
        ]
    );
}

#[test]
fn errors_name_file_line_field_expected_and_got() {
    #[rustfmt::skip]
    let cases = [
        ("max_batch_size: '4'",            "1: field `max_batch_size`: expected an integer, got text `4`"),
        ("max_batch_size: -1",             "1: field `max_batch_size`: expected an integer of 0 or more, got `-1`"),
        ("max_batch_size: 99999999999999999999", "1: field `max_batch_size`: expected an integer, got `99999999999999999999`"),
        ("max_batch_size: 1 \n max_batch_size: 2", "2: field `max_batch_size`: expected one value, got a second"),
        ("max_batchsize: 4",               "1: field `max_batchsize`: expected a field of ModelConfig, got `max_batchsize`"),
        ("name: resnet",                   "1: field `name`: expected text in quotes, got `resnet`"),
        ("input: 3",                       "1: field `input[0]`: expected a message in braces, got `3`"),
        ("input {}",                       "1: field `input[0]`: expected a `name`, got none"),
        ("input { name: 'x' }",            "1: field `input[0]`: expected a `data_type`, got none"),
        ("input {\nname: 'x'\ndata_type: FP32 }", "3: field `input[0].data_type`: expected a data type such as `TYPE_FP32`, got `FP32`"),
        ("input { data_type: 'TYPE_FP32' }", "1: field `input[0].data_type`: expected a name without quotes, got text `TYPE_FP32`"),
        ("output { data_type: TYPE_BYTES }", "1: field `output[0].data_type`: expected a data type such as `TYPE_FP32`, got `TYPE_BYTES`"),
        ("input {} input { dims: [1, 0] }", "1: field `input[0]`: expected a `name`, got none"),
        ("input { dims: [1, 0] }",         "1: field `input[0].dims[1]`: expected a size of 1 or more, or -1 for any, got `0`"),
        ("input { dims: -2 }",             "1: field `input[0].dims[0]`: expected a size of 1 or more, or -1 for any, got `-2`"),
        ("instance_group { kind: KIND_TPU }", "1: field `instance_group[0].kind`: expected `KIND_AUTO`, `KIND_GPU`, `KIND_CPU` or `KIND_MODEL`, got `KIND_TPU`"),
        ("dynamic_batching { default_queue_policy { timeout_action: DROP } }", "1: field `dynamic_batching.default_queue_policy.timeout_action`: expected `REJECT` or `DELAY`, got `DROP`"),
        ("dynamic_batching { priority_levels: 3 }", "1: field `dynamic_batching`: expected a `default_priority_level` from 1 to 3, got `0`"),
        ("version_policy { all {} latest {} }", "1: field `version_policy.latest`: expected one of the choice `policy_choice`, got `all` as well"),
        ("dynamic_batching { priority_levels: 2 default_priority_level: 1 priority_queue_policy { key: 3 value {} } }", "1: field `dynamic_batching.priority_queue_policy`: expected levels from 1 to 2 (`priority_levels`), got `3`"),
        ("dynamic_batching { preserve_ordering: true priority_levels: 2 default_priority_level: 1 }", "1: field `dynamic_batching.preserve_ordering`: expected at most 1 of `priority_levels` with it, got 2 of them, which overtake one another"),
        ("dynamic_batching { preserve_ordering: true default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 5 } }", "1: field `dynamic_batching.preserve_ordering`: expected `timeout_action` `REJECT` with it, got `DELAY`, which lets requests be overtaken"),
        ("dynamic_batching {} ensemble_scheduling {}", "1: field `ensemble_scheduling`: expected one of the choice `scheduling_choice`, got `dynamic_batching` as well"),
        ("name: ['a']",                    "1: field `name`: expected one value, got a list"),
        ("name: 'a' dynamic_batching [{}]", "1: field `dynamic_batching`: expected one value, got a list"),
        ("max_batch_size: 3000000000",     "0: field `max_batch_size`: expected a smaller integer, got `3000000000`"),
        ("input { name: 'x' data_type: 99 }", "1: field `input[0].data_type`: expected a data type such as `TYPE_FP32`, got `99`"),
        ("input { name: 'x' data_type: 11 format: FORMAT_NHWC dims: [2, 2] }", "1: field `input[0].dims`: expected 3 dimensions, got 2 with format `FORMAT_NHWC`"),
        ("instance_group { kind: KIND_CPU gpus: 1 }", "1: field `instance_group[0].gpus`: expected none with kind `KIND_CPU`, got [1]"),
        ("metric_tags { key: 'a' key: 'b' }", "1: field `metric_tags[0].key`: expected one value, got a second"),
        ("metric_tags { name: 'a' }",      "1: field `metric_tags[0].name`: expected `key` or `value`, got `name`"),
        ("sequence_batching { direct { minimum_slot_utilization: '1' } }", "1: field `sequence_batching.direct.minimum_slot_utilization`: expected a number, got text `1`"),
        ("ensemble_scheduling { step [ { model_name: 'a' } ] }", "1: field `ensemble_scheduling.step[0]`: expected an `input_map`, got none"),
        ("ensemble_scheduling {\n step { input_map { key: 'a' value: 'b' } } }", "2: field `ensemble_scheduling.step[0]`: expected a `model_name`, got none"),
        ("model_warmup { inputs { key: 'x' value { data_type: TYPE_FP32 dims: [ 1, -1 ] zero_data: true } } }", "1: field `model_warmup[0].inputs[0].value.dims[1]`: expected a size, since a sample has to have one, got `-1`"),
        ("model_warmup { inputs { key: 'x' value { data_type: TYPE_FP32 } } }", "1: field `model_warmup[0].inputs[0].value`: expected `zero_data`, `random_data` or `input_data_file`, got none"),
        ("model_warmup { inputs { key: 'x' value { zero_data: true random_data: true } } }", "1: field `model_warmup[0].inputs[0].value.random_data`: expected one of the choice `input_data_type`, got `zero_data` as well"),
        ("parameters { key: 'a' value { int_value: 1 } }", "1: field `parameters[0].value.int_value`: expected a field of ModelParameter, got `int_value`"),
        ("{",                              "1: expected a field name, got `{`"),
    ];
    for (text, want) in cases {
        let error = pbtxt(text).unwrap_err().to_string();
        // What is wrong with the whole has no line.
        let want = format!("config.pbtxt:{want}").replace(":0:", ":");
        assert_eq!(error, want, "{text}");
    }
}

#[test]
fn json_may_be_camel_case_and_quote_its_numbers() {
    let text = r#"{
        "maxBatchSize": "8",
        "input": [{"name": "x", "dataType": "TYPE_FP32", "dims": ["3", -1]}],
        "dynamicBatching": {"maxQueueDelayMicroseconds": "7"},
        "parameters": {"camelKey": {"stringValue": "v"}},
        "optimization": null
    }"#;
    let Parsed { config, warnings } = read_json("config", text).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(config.max_batch_size, Some(8));
    assert_eq!(config.inputs[0].dims, [3, -1]);
    assert_eq!(config.parameter("camelKey"), Some("v"));
    assert_eq!(config.dynamic_batching.unwrap().max_queue_delay, Duration::from_micros(7));
}

#[test]
fn json_errors_name_the_line_or_the_field() {
    #[rustfmt::skip]
    let cases = [
        ("[]",                         "config: expected a JSON object, got a list"),
        ("null",                       "config: expected a JSON object, got `null`"),
        (r#"{"name": ["a"]}"#,         "config: field `name`: expected one value, got a list"),
        (r#"{"dynamic_batching": {"priority_queue_policy": {"x": {}}}}"#, "config: field `dynamic_batching.priority_queue_policy.x`: expected a number as the key, got `x`"),
        (r#"{"parameters": {"a": {"int": 1}}}"#, "config: field `parameters.a.int`: expected a field of ModelParameter, got `int`"),
        ("7",                          "config: expected a JSON object, got `7`"),
        (r#"{"max_batch_size": 1.5}"#, "config: field `max_batch_size`: expected an integer, got `1.5`"),
        (r#"{"max_batchsize": 1}"#,    "config: field `max_batchsize`: expected a field of ModelConfig, got `max_batchsize`"),
    ];
    for (text, want) in cases {
        assert_eq!(read_json("config", text).unwrap_err().to_string(), want);
    }
    let broken = read_json("config", "{\n$}").unwrap_err().to_string();
    assert!(broken.starts_with("config:2: expected JSON, got "), "{broken}");
}

#[test]
fn every_way_to_write_a_value_means_the_same() {
    let parsed = |text: &str| pbtxt(text).unwrap().config;
    let plain =
        parsed("max_batch_size: 8 input { name: 'x' data_type: TYPE_INT8 dims: [ 8, -1 ] }");
    #[rustfmt::skip]
    let cases = [
        ("hexadecimal and octal",      "max_batch_size: 0x8 input { name: 'x' data_type: TYPE_INT8 dims: [ 010, -1 ] }"),
        ("an enum by its number",      "max_batch_size: 8 input { name: 'x' data_type: 6 dims: [ 8, -1 ] }"),
        ("angles, commas, semicolons", "max_batch_size: 8; input: < name: \"x\", data_type: TYPE_INT8, dims: 8, dims: - 1 >,"),
        ("a list of messages",         "max_batch_size: 8 input [ { name: 'x' data_type: TYPE_INT8 dims: [8] dims: [-1] } ]"),
        ("text in pieces, comments",   "# one\nmax_batch_size: 8 input { name: '' # two\n 'x' data_type: TYPE_INT8 dims: [ 8, # three\n -1 ] }"),
    ];
    for (shows, text) in cases {
        assert_eq!(parsed(text), plain, "{shows}");
    }
    let slots = |text: &str| {
        let config = parsed(&format!(
            "sequence_batching {{ direct {{ minimum_slot_utilization: {text} }} }}"
        ));
        config.sequence_batching.unwrap().direct.unwrap().minimum_slot_utilization
    };
    for (text, want) in [("1", 1.0), ("0.5", 0.5), (".5f", 0.5), ("5e-1", 0.5), ("-1.5E+1F", -15.0)]
    {
        assert_eq!(slots(text), want, "{text}");
    }
    assert!(slots("inf").is_infinite() && slots("-inf") < 0.0 && slots("nan").is_nan());
}

#[test]
fn json_is_written_as_triton_writes_it() {
    let text = r#"
name: "m" max_batch_size: 2
input { name: "x" data_type: TYPE_STRING dims: -1 }
optimization { cuda { graph_spec { batch_size: 1 input { key: "x" value { dim: [ 4 ] } } } } }
instance_group { secondary_devices { device_id: 7 } }
sequence_batching { direct { minimum_slot_utilization: 0.1 } state { dims: 3 initial_state { dims: 3 zero_data: true } } }
model_warmup { name: "w" batch_size: 1 inputs { key: "x" value { data_type: TYPE_STRING dims: 2 random_data: true } } }
metric_tags { key: "a" value: "b" }
"#;
    let json = to_json(&pbtxt(text).unwrap().config);
    #[rustfmt::skip]
    let cases = [
        ("a number of 64 bits is a number",      "/input/0/dims",                    "[-1]"),
        ("but for those that Triton quotes",     "/optimization/cuda/graph_spec/0/input/x/dim", r#"["4"]"#),
        ("this one too",                         "/instance_group/0/secondary_devices/0/device_id", r#""7""#),
        ("and this",                             "/sequence_batching/state/0/initial_state/0/dims", r#"["3"]"#),
        ("its neighbour is not",                 "/sequence_batching/state/0/dims",  "[3]"),
        ("a float has its own digits",           "/sequence_batching/direct/minimum_slot_utilization", "0.1"),
        ("a map's values are values",            "/metric_tags",                     r#"{"a":"b"}"#),
        ("a choice taken is there",              "/model_warmup/0/inputs/x/random_data", "true"),
        ("bytes are text",                       "/input/0/data_type",               r#""TYPE_STRING""#),
        ("an unset list is empty",               "/batch_input",                     "[]"),
        ("an unset map is empty",                "/cc_model_filenames",              "{}"),
        ("an unset enum has its first name",     "/input/0/format",                  r#""FORMAT_NONE""#),
        ("the policy is filled in",              "/version_policy",                  r#"{"latest":{"num_versions":1}}"#),
        ("an unset type says so",                "/sequence_batching/state/0/data_type", r#""TYPE_INVALID""#),
    ];
    for (shows, at, want) in cases {
        assert_eq!(json.pointer(at).unwrap().to_string(), want, "{shows}");
    }
    for absent in [
        "/dynamic_batching",
        "/response_cache",
        "/input/0/reshape",
        "/model_warmup/0/inputs/x/zero_data",
    ] {
        assert_eq!(json.pointer(absent), None, "{absent} is not set");
    }
}

/// A random text of a message with these fields, by the table alone.
fn text_of(fields: &'static [FieldInfo], depth: u32) -> BoxedStrategy<String> {
    let field = move |field: &'static FieldInfo| {
        let name = field.name;
        let value = value_of(field, depth);
        let most = if field.label() == Label::One { 1 } else { 2 };
        (prop::collection::vec(value, 0..=most), any::<bool>()).prop_map(move |(values, list)| {
            if list && most > 1 {
                return format!("{name}: [ {} ]\n", values.join(", "));
            }
            values.iter().map(|value| format!("{name}: {value}\n")).collect()
        })
    };
    // Of a choice, and of a large message, a part.
    let some =
        prop::sample::subsequence((0..fields.len()).collect::<Vec<_>>(), 0..=fields.len().min(6));
    some.prop_flat_map(move |at| {
        let mut chosen = std::collections::BTreeSet::new();
        let once = at.into_iter().filter(|at| fields[*at].choice.is_none_or(|c| chosen.insert(c)));
        once.map(|at| field(&fields[at])).collect::<Vec<_>>()
    })
    .prop_map(|parts: Vec<String>| parts.concat())
    .boxed()
}

fn value_of(field: &'static FieldInfo, depth: u32) -> BoxedStrategy<String> {
    let text = || "[a-z\u{e9} ]{0,5}".prop_map(|text| format!("{text:?}"));
    let one: BoxedStrategy<String> = match field.kind() {
        Kind::Bool => any::<bool>().prop_map(|b| b.to_string()).boxed(),
        Kind::Integer => (0..1000u32).prop_map(|n| n.to_string()).boxed(),
        Kind::Number => (-1000..1000i32).prop_map(|n| format!("{}", f64::from(n) / 8.0)).boxed(),
        Kind::Text => text().boxed(),
        Kind::Word(names) => prop::sample::select(names.to_vec()).prop_map(str::to_owned).boxed(),
        Kind::Message { fields, .. } if depth > 0 => {
            text_of(fields, depth - 1).prop_map(|text| format!("{{ {text} }}")).boxed()
        }
        Kind::Message { .. } => Just("{ }".to_owned()).boxed(),
    };
    if field.label() != Label::Map {
        return one;
    }
    let key = if field.name == "priority_queue_policy" {
        (0..9u32).prop_map(|n| n.to_string()).boxed()
    } else {
        text().boxed()
    };
    (key, one).prop_map(|(key, value)| format!("{{ key: {key} value: {value} }}")).boxed()
}

proptest! {
    #[test]
    fn text_reads_as_a_configuration_that_json_carries_whole(text in text_of(fields(), 3)) {
        // Most texts contradict themselves somewhere; an error is right then, a panic never.
        if let Ok(Parsed { config, warnings }) = pbtxt(&text) {
            let json = to_json(&config);
            let again = read_json("config", &json.to_string()).unwrap();
            prop_assert_eq!(to_json(&again.config), json);
            let fields = |warnings: &[Warning]| warnings.len();
            prop_assert_eq!(fields(&again.warnings), fields(&warnings));
        }
    }

    #[test]
    fn what_one_field_says_is_carried_whole(
        (name, text) in prop::sample::select(lenient()).prop_flat_map(|field| {
            (Just(field.name), value_of(field, 2))
        }),
    ) {
        let text = format!("{name}: {text}");
        let Parsed { config, .. } = pbtxt(&text).unwrap();
        let json = to_json(&config);
        let again = read_json("config", &json.to_string()).unwrap().config;
        prop_assert_eq!(to_json(&again), json);
        // `max_batch_size` is given once it was written; else the two are one.
        let mut again = again;
        again.max_batch_size = config.max_batch_size;
        prop_assert_eq!(again, config);
    }

    #[test]
    fn a_damaged_configuration_is_one_or_an_error(at in 0..FULL.len(), with in any::<char>(), cut in any::<bool>()) {
        let (head, tail) = FULL.split_at(at);
        let tail = if cut { "" } else { &tail[1..] };
        let _ = pbtxt(&format!("{head}{with}{tail}"));
    }

    #[test]
    fn any_json_is_a_configuration_or_an_error(text in r#"[\[\]{}:,"a-z0-9_ ]{0,60}"#) {
        let _ = read_json("config", &text);
    }
}

/// Fields of which any text is right: nothing is required or contradicted below them.
fn lenient() -> Vec<&'static FieldInfo> {
    let strict = [
        "input",
        "output",
        "instance_group",
        "dynamic_batching",
        "ensemble_scheduling",
        "model_warmup",
        "version_policy",
    ];
    fields().iter().filter(|field| !strict.contains(&field.name)).collect()
}
