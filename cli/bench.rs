//! `mizzen bench`

use std::{io::Write, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use mizzen_loadgen::{Data, Dim, Mode, Options, Protocol, ShapeOverride, render_table};
use mizzen_types::ErrorCode;

use crate::{
    failure::{Failure, Result},
    global::{Global, Output, block_on},
};

/// Load a V2 model server, ours or another's, and report throughput and latency
///
/// Closed loop (--concurrency) keeps that many requests under way; open loop (--rate) sends Poisson
/// arrivals, or bursts (--cv), whatever the server does, and counts the wait for a free connection. Latency
/// runs to the end of the answer; answers are not parsed. The last line says what the generator itself cost.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// The model
    #[arg(value_name = "MODEL")]
    model: String,
    /// Address of the protocol chosen
    #[arg(long, short = 'u', value_name = "HOST:PORT")]
    url: Option<String>,
    /// How requests travel
    #[arg(long, short = 'p', value_enum, default_value = "rest-binary")]
    protocol: Wire,
    /// Version of the model [default: the server's choice]
    #[arg(long, value_name = "VERSION")]
    model_version: Option<String>,
    /// Requests under way at once; several values are measured one after the other
    #[arg(
        long,
        short,
        value_name = "N",
        value_delimiter = ',',
        default_value = "1",
        conflicts_with = "rate"
    )]
    concurrency: Vec<usize>,
    /// Requests per second, sent as random arrivals; several values are measured one after the other
    #[arg(long, short, value_name = "RATE", value_delimiter = ',')]
    rate: Vec<f64>,
    /// Coefficient of variation of the gaps between arrivals: 1 is Poisson, more comes in bursts
    #[arg(long, value_name = "CV", default_value_t = 1.0, requires = "rate")]
    cv: f64,
    /// Count the answers that come within this time of when their request was due
    #[arg(long, value_name = "MILLISECONDS")]
    objective: Option<f64>,
    /// Connections at most under --rate
    #[arg(long, value_name = "N", default_value_t = 64)]
    connections: usize,
    /// Requests at once on one gRPC connection; tritonclient's channels share one among 6
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    streams: u16,
    /// Rows of each request, for models that batch
    #[arg(long, short = 'b', value_name = "ROWS", default_value_t = 1)]
    rows: usize,
    /// Free dimensions of an input, batch dimension excluded; a range such as `8..128` is drawn from anew for
    /// each request; once per input
    #[arg(long, value_name = "INPUT:D1,D2", value_parser = parse_shape)]
    shape: Vec<ShapeOverride>,
    /// What the tensors hold: `random`, `zero`, or a JSON file as perf_analyzer takes it
    #[arg(long, value_name = "random|zero|FILE", default_value = "random")]
    input_data: String,
    /// Seconds of load that count
    #[arg(long, short, value_name = "SECONDS", default_value_t = 5.0)]
    duration: f64,
    /// Seconds of load before
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    warmup: f64,
    /// End each measurement after this many requests
    #[arg(long, value_name = "N")]
    requests: Option<u64>,
    /// Seconds after which a request counts as failed
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0)]
    timeout: f64,
    /// Seed of data and arrivals
    #[arg(long, value_name = "U64", default_value_t = 1)]
    seed: u64,
    /// Threads of the generator; one is enough for some 50,000 requests per second
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: usize,
    /// How to print
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
    /// Write the figures as JSON to this file, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Wire {
    /// REST, JSON tensors
    RestJson,
    /// REST, binary tensors
    RestBinary,
    /// gRPC, raw contents
    Grpc,
}

impl Bench {
    pub(crate) fn run(&self, global: &Global, out: &mut dyn Write) -> Result<()> {
        global.init_logs("warn")?;
        let reports = block_on(self.threads, async {
            let mut reports = Vec::new();
            for mode in self.modes()? {
                reports.push(mizzen_loadgen::run(&self.options(mode)?).await?);
            }
            Ok(reports)
        })?;
        let json = serde_json::to_string_pretty(&reports).expect("reports are plain data");
        if let Some(path) = &self.json {
            std::fs::write(path, &json).map_err(|e| {
                Failure::new(
                    ErrorCode::InvalidArgument,
                    format!("cannot write `{}`: {e}", path.display()),
                )
            })?;
        }
        if self.output == Output::Json {
            writeln!(out, "{json}")?;
        } else {
            writeln!(out, "{}", render_table(&reports))?;
            let cost = reports.iter().map(|r| r.client_cpu_us_per_request).fold(0.0, f64::max);
            for report in &reports {
                if let Some(objective) = report.objective_ms {
                    let sent = report.ok + report.failed;
                    writeln!(
                        out,
                        "{:.0} requests/s answered within {objective} ms, {:.1} % of those sent",
                        report.goodput_per_second,
                        100.0 * report.within_objective as f64 / sent.max(1) as f64
                    )?;
                }
            }
            writeln!(out, "the generator took at most {cost:.0} µs of processor time per request")?;
        }
        match reports.iter().find_map(|r| r.first_error.as_ref()) {
            Some(error) => Err(Failure::new(
                ErrorCode::Internal,
                format!("some requests failed, the first with: {error}"),
            )),
            None => Ok(()),
        }
    }

    fn modes(&self) -> Result<Vec<Mode>> {
        if let Some(wrong) = self.rate.iter().find(|r| !(r.is_finite() && **r > 0.0)) {
            let message =
                format!("--rate {wrong} is not usable; expected requests per second above 0");
            return Err(Failure::new(ErrorCode::InvalidArgument, message));
        }
        if !(self.cv.is_finite() && self.cv >= 1.0) {
            let message =
                format!("--cv {} is not usable; expected 1 (Poisson) or more (bursts)", self.cv);
            return Err(Failure::new(ErrorCode::InvalidArgument, message));
        }
        Ok(if self.rate.is_empty() {
            self.concurrency.iter().map(|n| Mode::Closed { concurrency: *n }).collect()
        } else {
            self.rate
                .iter()
                .map(|r| Mode::Open { rate: *r, cv: self.cv, connections: self.connections })
                .collect()
        })
    }

    fn options(&self, mode: Mode) -> Result<Options> {
        let seconds = |name: &str, value: f64| {
            std::time::Duration::try_from_secs_f64(value).map_err(|_| {
                Failure::new(
                    ErrorCode::InvalidArgument,
                    format!("--{name} {value} is not a number of seconds, 0 or more"),
                )
            })
        };
        let (protocol, port) = match self.protocol {
            Wire::RestJson => (Protocol::RestJson, 8000),
            Wire::RestBinary => (Protocol::RestBinary, 8000),
            Wire::Grpc => (Protocol::Grpc, 8001),
        };
        if self.streams > 1 && protocol != Protocol::Grpc {
            let message = format!(
                "--streams {} is for --protocol grpc: a REST connection has one request at a time; leave it out, \
                 or give --concurrency the number of connections",
                self.streams
            );
            return Err(Failure::new(ErrorCode::InvalidArgument, message));
        }
        let data = match self.input_data.as_str() {
            "random" => Data::Random,
            "zero" => Data::Zero,
            file => Data::File(file.into()),
        };
        let timeout: Duration = seconds("timeout", self.timeout)?;
        let objective = self.objective.map(|ms| seconds("objective", ms / 1e3)).transpose()?;
        Ok(Options {
            address: self.url.clone().unwrap_or_else(|| format!("127.0.0.1:{port}")),
            protocol,
            model: self.model.clone(),
            version: self.model_version.clone(),
            mode,
            streams: usize::from(self.streams),
            rows: self.rows,
            shapes: self.shape.clone(),
            data,
            warmup: seconds("warmup", self.warmup)?,
            duration: seconds("duration", self.duration)?,
            requests: self.requests,
            timeout,
            objective,
            seed: self.seed,
        })
    }
}

pub(crate) fn parse_shape(text: &str) -> std::result::Result<ShapeOverride, String> {
    let wrong = || format!("expected INPUT:D1,D2 such as `ids:128` or `ids:8..128`; got `{text}`");
    let (input, dims) = text.rsplit_once(':').ok_or_else(wrong)?;
    let dims = dims.split(',').map(|d| parse_dim(d.trim()).ok_or_else(wrong));
    Ok(ShapeOverride {
        input: input.to_owned(),
        dims: dims.collect::<std::result::Result<_, _>>()?,
    })
}

/// `128`, or `8..128` with both ends.
fn parse_dim(text: &str) -> Option<Dim> {
    let (low, high) = text.split_once("..").unwrap_or((text, text));
    let dim = Dim { low: low.parse().ok()?, high: high.parse().ok()? };
    (dim.low <= dim.high).then_some(dim)
}
