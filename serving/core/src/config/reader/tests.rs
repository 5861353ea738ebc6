use proptest::prelude::*;

use super::*;
use crate::config::{read_json, to_json};

/// As much of a configuration as is honoured, in the forms that people write.
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
    assert_eq!(config.inputs[1].data_type, DataType::Bytes);
    assert_eq!(config.inputs[1].reshape, Some(vec![]));
    assert_eq!((&*config.outputs[0].name, &*config.outputs[0].dims), ("y", &[1000][..]));
    assert_eq!(config.version_policy, VersionPolicy::Specific(vec![1, 3]));
    let groups: Vec<_> =
        config.instance_groups.iter().map(|g| (g.kind, g.count, g.gpus.clone())).collect();
    assert_eq!(groups, [(InstanceKind::Gpu, 2, vec![0, 1]), (InstanceKind::Cpu, 1, vec![])]);
    let batching = config.dynamic_batching.unwrap();
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
    assert_eq!(config.parameters["intra_op_thread_count"], "2");
    assert_eq!(config.parameters["a"], "b");
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
optimization { graph { level: 1 } }
input { name: 'x' data_type: TYPE_FP32 dims: 1 allow_ragged_batch: true optional: false }
instance_group { count: 1 rate_limiter { priority: 2 } passive: false }
model_warmup { name: 'w' batch_size: 1 }";
    let warnings = pbtxt(text).unwrap().warnings;
    let warnings: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "line 2: field `optimization` is not honoured yet",
            "line 3: field `input[0].allow_ragged_batch` is not honoured yet",
            "line 4: field `instance_group[0].rate_limiter` is not honoured yet",
            "line 5: field `model_warmup[0]` is not honoured yet",
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
        ("version_policy { all {} latest {} }", "1: field `version_policy.latest`: expected one policy, got a second"),
        ("dynamic_batching { priority_levels: 2 default_priority_level: 1 priority_queue_policy { key: 3 value {} } }", "1: field `dynamic_batching.priority_queue_policy`: expected levels from 1 to 2 (`priority_levels`), got `3`"),
        ("dynamic_batching { preserve_ordering: true priority_levels: 2 default_priority_level: 1 }", "1: field `dynamic_batching.preserve_ordering`: expected at most 1 of `priority_levels` with it, got 2 of them, which overtake one another"),
        ("dynamic_batching { preserve_ordering: true default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 5 } }", "1: field `dynamic_batching.preserve_ordering`: expected `timeout_action` `REJECT` with it, got `DELAY`, which lets requests be overtaken"),
        ("sequence_batching {}",           "1: field `sequence_batching`: expected `dynamic_batching` or no scheduler, got one that is not offered yet"),
        ("dynamic_batching {} ensemble_scheduling {}", "1: field `ensemble_scheduling`: expected one scheduler, got `dynamic_batching` as well"),
        ("parameters { key: 'a' value { int_value: 1 } }", "1: field `parameters[0].value.int_value`: expected a field of ModelParameter, got `int_value`"),
        ("{",                              "1: expected a field name, got `{`"),
    ];
    for (text, want) in cases {
        let error = pbtxt(text).unwrap_err().to_string();
        assert_eq!(error, format!("config.pbtxt:{want}"), "{text}");
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
    assert_eq!(config.dynamic_batching.unwrap().max_queue_delay, Duration::from_micros(7));
    assert_eq!(config.parameters["camelKey"], "v");
}

#[test]
fn json_errors_name_the_line_or_the_field() {
    #[rustfmt::skip]
    let cases = [
        ("[]",                         "config: expected a JSON object, got a list or null"),
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

fn name() -> impl Strategy<Value = String> {
    "[a-zé\"\\\\ ]{1,6}"
}

fn tensor() -> impl Strategy<Value = TensorConfig> {
    let dims = || prop::collection::vec(prop_oneof![Just(-1i64), 1i64..i64::MAX], 0..4);
    let data_type = prop::sample::select(DataType::ALL.to_vec());
    (name(), data_type, dims(), prop::option::of(dims())).prop_map(
        |(name, data_type, dims, reshape)| TensorConfig { name, data_type, dims, reshape },
    )
}

fn config() -> impl Strategy<Value = ModelConfig> {
    let micros = || (0..u64::MAX).prop_map(Duration::from_micros);
    let policy =
        (any::<bool>(), micros(), any::<bool>(), any::<usize>()).prop_map(|(delay, t, o, q)| {
            QueuePolicy {
                timeout_action: if delay { TimeoutAction::Delay } else { TimeoutAction::Reject },
                default_timeout: t,
                allow_timeout_override: o,
                max_queue_size: q,
            }
        });
    let batching = (
        micros(),
        prop::collection::vec(any::<usize>(), 0..3),
        prop::option::of(policy.clone()),
        prop::option::of(policy),
        any::<bool>(),
    )
        .prop_map(
            |(max_queue_delay, preferred_batch_sizes, default_queue_policy, level, ordered)| {
                let levels = u64::from(level.is_some());
                let delays = |p: &QueuePolicy| p.timeout_action == TimeoutAction::Delay;
                let policies = default_queue_policy.iter().chain(&level);
                DynamicBatching {
                    max_queue_delay,
                    preferred_batch_sizes,
                    preserve_ordering: ordered && !policies.into_iter().any(delays),
                    priority_levels: levels,
                    default_priority_level: levels,
                    priority_queue_policies: level.into_iter().map(|p| (1, p)).collect(),
                    default_queue_policy,
                }
            },
        );
    let group = (name(), 1usize..9, prop::collection::vec(any::<u32>(), 0..3)).prop_map(
        |(name, count, gpus)| InstanceGroup { name, kind: InstanceKind::Gpu, count, gpus },
    );
    let policy = prop_oneof![
        (1usize..9).prop_map(VersionPolicy::Latest),
        Just(VersionPolicy::All),
        prop::collection::vec(any::<u64>(), 0..3).prop_map(VersionPolicy::Specific),
    ];
    let texts = (name(), name(), name(), name());
    let tensors = || prop::collection::vec(tensor(), 0..3);
    let parameters = prop::collection::btree_map(name(), name(), 0..3);
    (
        texts,
        policy,
        any::<u32>(),
        (tensors(), tensors()),
        prop::option::of(batching),
        prop::collection::vec(group, 0..3),
        parameters,
    )
        .prop_map(
            |(
                texts,
                version_policy,
                max,
                (inputs, outputs),
                dynamic_batching,
                instance_groups,
                parameters,
            )| {
                ModelConfig {
                    name: texts.0,
                    platform: texts.1,
                    backend: texts.2,
                    version_policy,
                    max_batch_size: Some(max as usize),
                    inputs,
                    outputs,
                    dynamic_batching,
                    instance_groups,
                    default_model_filename: texts.3,
                    parameters,
                }
            },
        )
}

proptest! {
    #[test]
    fn what_is_written_as_json_reads_back_the_same(config in config()) {
        let parsed = read_json("config", &to_json(&config).to_string()).unwrap();
        prop_assert_eq!(parsed.config, config);
        prop_assert_eq!(parsed.warnings, vec![]);
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
