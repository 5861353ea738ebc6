//! Flags of Triton's that have nothing to set here.
//!
//! A command line made for Triton is to start Mizzen as it is, so these are taken, and each that is given is
//! warned of. Flags that change who may do what, or what is answered, are not among them: an unknown flag is an
//! error, and a restriction that is silently dropped would be worse.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};

/// A flag of Triton's and why it sets nothing.
type Flag = (&'static str, &'static str);

const LOG: &str = "logs go to stderr, as much of them as `--log` says";
const GPU: &str = "no GPU memory is kept here";
const ENGINE: &str = "engines are where `mizzen doctor` shows";
const THREADS: &str = "threads follow the cores, buffers the load";
const HTTP2: &str = "connections are kept by HTTP/2's own means";
const CACHE: &str = "answers are not cached";
const TRACE: &str = "what is traced is said with `--trace-config`, as in `triton,file=FILE`";

const FLAGS: [Flag; 33] = [
    ("id", "the server calls itself `mizzen`"),
    ("log-file", LOG),
    ("backend-directory", ENGINE),
    ("backend-config", "`config.pbtxt` sets an engine, model by model"),
    ("repoagent-directory", "there are no repository agents"),
    ("cache-directory", CACHE),
    ("cache-config", CACHE),
    ("response-cache-byte-size", CACHE),
    ("http-thread-count", THREADS),
    ("grpc-infer-allocation-pool-size", THREADS),
    ("buffer-manager-thread-count", THREADS),
    ("enable-peer-access", GPU),
    ("pinned-memory-pool-byte-size", GPU),
    ("cuda-memory-pool-byte-size", GPU),
    ("cuda-virtual-address-size", GPU),
    ("min-supported-compute-capability", GPU),
    ("model-load-gpu-limit", GPU),
    ("allow-gpu-metrics", "GPUs are not measured"),
    ("allow-cpu-metrics", "the process's own figures are always among the metrics"),
    ("grpc-keepalive-time", HTTP2),
    ("grpc-keepalive-timeout", HTTP2),
    ("grpc-keepalive-permit-without-calls", HTTP2),
    ("grpc-http2-max-pings-without-data", HTTP2),
    ("grpc-http2-min-recv-ping-interval-without-data", HTTP2),
    ("grpc-http2-max-ping-strikes", HTTP2),
    ("grpc-max-connection-age", HTTP2),
    ("grpc-max-connection-age-grace", HTTP2),
    ("trace-file", TRACE),
    ("trace-level", TRACE),
    ("trace-rate", TRACE),
    ("trace-count", TRACE),
    ("trace-log-frequency", TRACE),
    ("host-policy", "threads are not bound to processors"),
];

/// Those of [`FLAGS`] that were given.
#[derive(Debug, Default)]
pub(crate) struct TritonFlags(Vec<Flag>);

impl TritonFlags {
    /// Says of each that it sets nothing, and why.
    pub(crate) fn warn(&self) {
        for (flag, reason) in &self.0 {
            tracing::warn!("`--{flag}` of Triton's sets nothing here: {reason}");
        }
    }
}

impl Args for TritonFlags {
    fn augment_args(command: Command) -> Command {
        // What `serve` has a setting for comes before this and stays what it is.
        let has = |flag: &str| command.get_arguments().any(|a| a.get_long() == Some(flag));
        let absent: Vec<_> = FLAGS.into_iter().filter(|(flag, _)| !has(flag)).collect();
        // Triton's flags take a value, but switches may stand alone.
        command.args(absent.into_iter().map(|(flag, _)| {
            Arg::new(flag).long(flag).hide(true).num_args(0..=1).action(ArgAction::Append)
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for TritonFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let given = |flag: &str| matches.try_contains_id(flag).unwrap_or(false);
        Ok(Self(FLAGS.into_iter().filter(|(flag, _)| given(flag)).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
