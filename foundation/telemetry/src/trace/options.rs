//! What is traced and where it goes: Triton's `--trace-config`, and OpenTelemetry's environment.

use std::time::Duration;

use opentelemetry_sdk::trace::Sampler;

use crate::TelemetryError;

/// Where a collector listens by default, as in Triton and in OpenTelemetry.
const DEFAULT_URL: &str = "http://localhost:4318/v1/traces";

/// Triton's `rate`: one request of so many.
const DEFAULT_RATE: u64 = 1000;

/// How spans are made and where they go.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceOptions {
    /// The collector's address for traces over HTTP.
    pub url: String,
    /// Which requests that come without a decision of their caller's are traced.
    pub roots: Roots,
    /// Whether a caller that has decided is followed.
    pub follow_caller: bool,
    /// What the server says of itself, beside what `OTEL_RESOURCE_ATTRIBUTES` does.
    pub resource: Vec<(String, String)>,
    /// Spans that may wait for the collector; more are dropped and counted.
    pub queue_spans: usize,
    /// Spans sent at once.
    pub batch_spans: usize,
    /// The longest that a span waits for others to be sent with.
    pub delay: Duration,
}

/// Which requests without a traced caller are traced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Roots {
    /// None.
    None,
    /// All.
    All,
    /// This share of them, 0 to 1, chosen by their trace id.
    Share(f64),
}

impl Default for TraceOptions {
    /// The batching is OpenTelemetry's own default.
    fn default() -> Self {
        Self {
            url: DEFAULT_URL.to_owned(),
            roots: Roots::All,
            follow_caller: true,
            resource: Vec::new(),
            queue_spans: 2048,
            batch_spans: 512,
            delay: Duration::from_secs(5),
        }
    }
}

impl TraceOptions {
    /// Reads the values of `--trace-config`, each `setting=value` or `opentelemetry,setting=value`,
    /// over what the environment says. `None` if neither asks for traces.
    ///
    /// # Errors
    /// [`TelemetryError::Trace`] for a setting that is unknown or cannot be followed.
    pub fn read(
        flags: &[String],
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, TelemetryError> {
        let mut reader = Reader::new(&environment);
        for flag in flags {
            reader.flag(flag)?;
        }
        reader.finish()
    }

    pub(super) fn sampler(&self) -> Sampler {
        let root = match self.roots {
            Roots::None => Sampler::AlwaysOff,
            Roots::All => Sampler::AlwaysOn,
            Roots::Share(share) => Sampler::TraceIdRatioBased(share),
        };
        if self.follow_caller { Sampler::ParentBased(Box::new(root)) } else { root }
    }
}

struct Reader<'a> {
    environment: &'a dyn Fn(&str) -> Option<String>,
    options: TraceOptions,
    mode: Option<String>,
    off: bool,
    rate: Option<u64>,
    url: Option<String>,
}

impl<'a> Reader<'a> {
    fn new(environment: &'a dyn Fn(&str) -> Option<String>) -> Self {
        let options = TraceOptions::default();
        Self { environment, options, mode: None, off: false, rate: None, url: None }
    }

    fn flag(&mut self, flag: &str) -> Result<(), TelemetryError> {
        let wrong = |expected: &str| TelemetryError::Trace {
            setting: format!("--trace-config {flag}"),
            expected: expected.to_owned(),
        };
        let (of_mode, setting) = match flag.split_once(',') {
            Some(("opentelemetry", setting)) => (true, setting),
            Some(_) => {
                return Err(wrong(
                    "`opentelemetry,` or nothing before the setting; a `triton,` one stands with `mode=triton`",
                ));
            }
            None => (false, flag),
        };
        let Some((name, value)) = setting.split_once('=') else {
            return Err(wrong("`setting=value`"));
        };
        let number = |expected| value.parse::<u64>().map_err(|_| wrong(expected));
        match (of_mode, name) {
            (false, "mode") if value == "opentelemetry" => self.mode = Some(value.to_owned()),
            (false, "mode") => {
                return Err(wrong("`opentelemetry` or `triton`"));
            }
            (false, "level") => match value {
                "OFF" => self.off = true,
                "TIMESTAMPS" => self.off = false,
                _ => return Err(wrong("`OFF` or `TIMESTAMPS`; tensors are not traced")),
            },
            (false, "rate") => {
                self.rate = Some(number("a number of requests, of which one is traced")?)
            }
            (false, "count") if value == "-1" => {}
            (false, "count") => {
                return Err(wrong("`-1`, which is no bound; choose a `rate` instead"));
            }
            (true, "url") => self.url = Some(value.to_owned()),
            (true, "resource") => match value.split_once('=') {
                Some((key, value)) => {
                    self.options.resource.push((key.to_owned(), value.to_owned()))
                }
                None => return Err(wrong("`opentelemetry,resource=key=value`")),
            },
            (true, "bsp_max_queue_size") => {
                self.options.queue_spans = at_least_one(number("a number of spans")?);
            }
            (true, "bsp_max_export_batch_size") => {
                self.options.batch_spans = at_least_one(number("a number of spans")?);
            }
            (true, "bsp_schedule_delay") => {
                self.options.delay = Duration::from_millis(number("milliseconds")?.max(1));
            }
            (false, _) => {
                return Err(wrong(
                    "`mode`, `level`, `rate` or `count`, or a setting after `opentelemetry,`",
                ));
            }
            (true, _) => {
                return Err(wrong(
                    "`url`, `resource`, `bsp_max_queue_size`, `bsp_max_export_batch_size` or `bsp_schedule_delay`",
                ));
            }
        }
        Ok(())
    }

    fn variable(&self, name: &str) -> Option<String> {
        (self.environment)(name).filter(|value| !value.is_empty())
    }

    fn finish(mut self) -> Result<Option<TraceOptions>, TelemetryError> {
        let disabled =
            self.variable("OTEL_SDK_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true"));
        let unwanted = self.variable("OTEL_TRACES_EXPORTER").is_some_and(|v| v == "none");
        let from_environment = self.variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| {
            let base = self.variable("OTEL_EXPORTER_OTLP_ENDPOINT")?;
            Some(format!("{}/v1/traces", base.trim_end_matches('/')))
        });
        if self.off || disabled {
            return Ok(None);
        }
        if self.mode.is_none() {
            if self.rate.is_some() || self.url.is_some() || !self.options.resource.is_empty() {
                return Err(TelemetryError::Trace {
                    setting: "--trace-config".to_owned(),
                    expected: "`mode=opentelemetry` beside the other settings".to_owned(),
                });
            }
            if unwanted || from_environment.is_none() {
                return Ok(None);
            }
        }
        self.protocol()?;
        let sampler = self.sampler()?;
        if let Some(url) = self.url.take().or(from_environment) {
            self.options.url = with_scheme(url)?;
        }
        match (self.rate, sampler) {
            (Some(rate), _) => self.options.roots = one_of(rate),
            (None, Some((roots, follow))) => {
                (self.options.roots, self.options.follow_caller) = (roots, follow);
            }
            // Triton's default where Triton's flag turned it on, OpenTelemetry's where its own did.
            (None, None) if self.mode.is_some() => self.options.roots = one_of(DEFAULT_RATE),
            (None, None) => {}
        }
        Ok(Some(self.options))
    }

    fn protocol(&self) -> Result<(), TelemetryError> {
        let names = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
        match names.into_iter().find_map(|name| Some((name, self.variable(name)?))) {
            None => Ok(()),
            Some((_, value)) if value == "http/protobuf" => Ok(()),
            Some((name, value)) => Err(TelemetryError::Trace {
                setting: format!("{name}={value}"),
                expected: "`http/protobuf`, which collectors take at port 4318".to_owned(),
            }),
        }
    }

    fn sampler(&self) -> Result<Option<(Roots, bool)>, TelemetryError> {
        let Some(name) = self.variable("OTEL_TRACES_SAMPLER") else { return Ok(None) };
        let share = || {
            let text = self.variable("OTEL_TRACES_SAMPLER_ARG").unwrap_or_else(|| "1".to_owned());
            let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
            share.map(Roots::Share).ok_or_else(|| TelemetryError::Trace {
                setting: format!("OTEL_TRACES_SAMPLER_ARG={text}"),
                expected: "a share from 0 to 1".to_owned(),
            })
        };
        Ok(Some(match name.as_str() {
            "always_on" => (Roots::All, false),
            "always_off" => (Roots::None, false),
            "traceidratio" => (share()?, false),
            "parentbased_always_on" => (Roots::All, true),
            "parentbased_always_off" => (Roots::None, true),
            "parentbased_traceidratio" => (share()?, true),
            _ => {
                return Err(TelemetryError::Trace {
                    setting: format!("OTEL_TRACES_SAMPLER={name}"),
                    expected: "`always_on`, `always_off`, `traceidratio`, or one of these after `parentbased_`".to_owned(),
                });
            }
        }))
    }
}

fn at_least_one(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX).clamp(1, 1 << 20)
}

/// Triton's `rate`; 0 leaves it to the callers.
fn one_of(rate: u64) -> Roots {
    match rate {
        0 => Roots::None,
        1 => Roots::All,
        rate => Roots::Share(1.0 / rate as f64),
    }
}

/// Triton's examples leave the scheme out.
fn with_scheme(url: String) -> Result<String, TelemetryError> {
    let url = if url.contains("://") { url } else { format!("http://{url}") };
    match url.parse::<http::Uri>() {
        Ok(uri) if uri.scheme_str() == Some("http") && uri.authority().is_some() => Ok(url),
        _ => Err(TelemetryError::Trace {
            setting: format!("the collector's address `{url}`"),
            expected: "`http://host:port/v1/traces`; for TLS, send to a collector beside the server, which forwards".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flags: &[&str], environment: &[(&str, &str)]) -> Result<Option<TraceOptions>, String> {
        let flags: Vec<_> = flags.iter().map(|f| (*f).to_owned()).collect();
        let find = |name: &str| {
            environment.iter().find(|(known, _)| *known == name).map(|(_, v)| (*v).to_owned())
        };
        TraceOptions::read(&flags, find).map_err(|e| e.to_string())
    }

    #[test]
    fn nothing_is_traced_unless_asked_for() {
        assert_eq!(read(&[], &[]), Ok(None));
        assert_eq!(read(&["mode=opentelemetry", "level=OFF"], &[]), Ok(None));
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
        assert_eq!(read(&[], &[endpoint, ("OTEL_SDK_DISABLED", "true")]), Ok(None));
        assert_eq!(read(&[], &[endpoint, ("OTEL_TRACES_EXPORTER", "none")]), Ok(None));
    }

    #[test]
    fn tritons_flags_and_the_environment_are_read() {
        let options = read(
            &[
                "mode=opentelemetry",
                "rate=4",
                "count=-1",
                "level=TIMESTAMPS",
                "opentelemetry,url=c:4318/v1/traces",
                "opentelemetry,resource=service.name=a",
                "opentelemetry,bsp_schedule_delay=20",
            ],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://other:1")],
        );
        let options = options.unwrap().unwrap();
        assert_eq!(options.url, "http://c:4318/v1/traces");
        assert_eq!(options.roots, Roots::Share(0.25));
        assert_eq!(options.resource, [("service.name".to_owned(), "a".to_owned())]);
        assert_eq!(options.delay, Duration::from_millis(20));

        let default = read(&["mode=opentelemetry"], &[]).unwrap().unwrap();
        assert_eq!((default.url.as_str(), default.roots), (DEFAULT_URL, Roots::Share(0.001)));

        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/");
        let all = read(&[], &[endpoint]).unwrap().unwrap();
        assert_eq!((all.url.as_str(), all.roots), ("http://c:4318/v1/traces", Roots::All));
        let sampler =
            [endpoint, ("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0.5")];
        let half = read(&[], &sampler).unwrap().unwrap();
        assert_eq!((half.roots, half.follow_caller), (Roots::Share(0.5), false));
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");

    #[test]
    fn what_cannot_be_followed_says_what_can() {
        type Case =
            (&'static [&'static str], &'static [(&'static str, &'static str)], &'static str);
        #[rustfmt::skip]
        let cases: &[Case] = &[
            (&["mode=file"],                           &[], "`opentelemetry` or `triton`"),
            (&["rate=1"],                              &[], "`mode=opentelemetry`"),
            (&["other,file=x"],                        &[], "`opentelemetry,` or nothing"),
            (&["mode=opentelemetry", "rate=x"],        &[], "a number of requests"),
            (&["mode=opentelemetry", "count=5"],       &[], "choose a `rate`"),
            (&["mode=opentelemetry", "level=TENSORS"], &[], "tensors are not traced"),
            (&["opentelemetry,colour=red"],            &[], "`bsp_schedule_delay`"),
            (&["verbose"],                             &[], "`setting=value`"),
            (&["mode=opentelemetry", "opentelemetry,url=https://c"], &[], "beside the server"),
            (&[], &[ENDPOINT, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], "4318"),
            (&[], &[ENDPOINT, ("OTEL_TRACES_SAMPLER", "jaeger")],       "`parentbased_`"),
        ];
        for (flags, environment, want) in cases {
            let error = read(flags, environment).unwrap_err();
            assert!(error.contains(want), "{flags:?}: {error}");
        }
    }
}
