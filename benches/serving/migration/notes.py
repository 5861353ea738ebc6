"""What the table of flags says beside a flag."""

FLAGS = {
    "exit-on-error": "the default is `false`: the other models are served, and readiness says that one is missing",
    "http-address": "the default is `127.0.0.1`; beyond it the server wants TLS and a token, or `--allow-remote`",
    "grpc-address": "the default is `127.0.0.1`, as above",
    "metrics-address": "the default is `127.0.0.1`, as above",
    "model-repository": "a directory; once per directory, or several with commas between",
    "model-store": "another name of `--model-repository`",
    "model-load-thread-count": "the default is 4",
    "log-format": "`text` or `json`; Triton's `default` and `ISO8601` are refused",
    "http-header-forward-pattern": "in lower case, and in place of a parameter of the body; the engines here read no parameters",
    "grpc-header-forward-pattern": "for ModelInfer and ModelStreamInfer",
    "strict-model-config": "old name of the opposite of `--disable-auto-complete-config`",
    "model-namespacing": "two repositories cannot hold models of one name",
    "rate-limit": "instances are not limited by resources",
    "rate-limit-resource": "instances are not limited by resources",
    "grpc-infer-response-compression-level": "an answer is compressed where the client accepts it, as its call says",
    "http-restricted-api": "as for Triton; [security.md](security.md) has rules that say more",
    "metrics-config": "",
    "reuse-http-port": "one process takes all cores; there is no need for several on a port",
    "reuse-grpc-port": "one process takes all cores; there is no need for several on a port",
}
