"""Where Mizzen answers otherwise than Triton on purpose, and why."""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Known:
    """Differences whose case matches the regular expression, at a path of the answer."""
    case: str
    path: str
    reason: str


CLIENTS_FAULT = "the request is at fault, so the status is 400 and not 500"
OWN = "its own name, version and extensions"
HEALTH = "KServe's clients read a JSON body here, Triton's read none"
NO_BODY = "an empty answer has no type"
NOT_READY = "404 is kept for what does not exist; a model that is there but not ready is 503"

ALL = [
    Known("(server metadata|ServerMetadata)", r"body\.(name|version|extensions)", OWN),
    Known("REST: (live|ready|model ready)$", r"body|headers\.content-type", HEALTH),
    Known("REST: root", "status", "KServe's probes ask at /"),
    Known("(broken model|after unload|was unloaded|ModelConfig .*ensemble)", "status", NOT_READY),
    Known("(ready, unknown|ready after)", "status", "404 for what does not exist, 503 for what is not ready"),
    Known("ModelReady .*absent", "status", "404 for what does not exist"),
    Known("(statistics, unknown|ModelStatistics .*absent)", "status", "404 for what does not exist"),
    Known("config of (bare|free)|its configuration|ModelConfig .*bare", r"body\..*instance_group\[0\]\..*",
          "one instance is the default; Triton's backend for ONNX Runtime makes two on a CPU"),
    Known("REST: outputs in the other order", r"body\.outputs.*", "outputs come in the order they were asked for"),
    Known("an output twice", "status", "a request that asks for an output twice is refused"),
    Known("a parameter with a reserved name", "status", "reserved names that mean nothing are let through"),
    Known("(too large for the type|an exponent too large)", "status", "a number that does not fit is refused rather than changed"),
    Known("FP16 as JSON", "status", "JSON carries FP16, too"),
    Known("REST: (priority that is no|negative dimension|fewer values|more values|a text where|null where|a fraction for|negative "
          "for an|no (shape|datatype|name|inputs|JSON)|an id that|a list|binary size negative|load with a configuration that)",
          "status", CLIENTS_FAULT),
    Known("REST: (unload|load|shared memory, unregister)", r"headers\.content-type", NO_BODY),
    Known("(load of what is not there|RepositoryModelLoad .*absent)", "status", "404 for what does not exist"),
    Known("(unload of what is not there|RepositoryModelUnload .*absent)", "status", "404 for what does not exist"),
    Known("a queue that is full", r"refused.*", "429 with Retry-After: come back later, where 503 says that nobody serves"),
    Known("config of ensemble", r"body\.ensemble_scheduling\.max_inflight_requests", "a field of newer Tritons"),
    Known("REST: an ensemble", r"body\.parameters", "parameters that the client did not send are not sent back"),
    Known("(log settings|LogSettings)", r"body\..*log_info.*", "each says what its own flags have it log: `--log` here"),
    Known("shared memory that does not exist", "status", CLIENTS_FAULT),
    Known("gRPC: ModelInfer .*AACAPw==", "status", "a tensor too many is refused rather than ignored"),
]


def reason(case, path, theirs, ours, used):
    for entry in ALL:
        if re.search(entry.case, f"{case[0]}: {case[1]}") and re.fullmatch(entry.path, path):
            used.add(entry)
            return entry.reason
    return None
