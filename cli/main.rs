//! The `mizzen` command: the composition root, and the only place that names an engine.
//!
//! One file per subcommand; each reads its flags, calls the library that does the work and prints. Data
//! goes to stdout, talk to stderr. Exit statuses follow from `ErrorCode::exit`: 0 done, 1 failed,
//! 2 wrong flag or input, 3 not found, 4 conflict, 5 not allowed, 6 unavailable, 7 deadline, 8 unsupported,
//! 9 disk full.

mod agent;
mod bench;
mod connect;
mod delete;
mod doctor;
mod engines;
mod failure;
mod follow;
mod get;
mod global;
mod katib;
mod logs;
mod models;
mod operator;
mod resources;
mod rest;
mod run;
mod serve;
mod stack;
mod suggest;
mod table;
mod token;
mod triton_flags;
mod triton_logs;
mod tune;
mod up;

use std::{io::Write as _, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};

use crate::{failure::Failure, global::Global};

/// Requests and objects are many short-lived allocations on several threads at once, where the
/// system's allocator spends a tenth of the time of a pipeline's step.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Serves models, tunes hyperparameters and runs training pipelines, on a laptop or on Kubernetes
///
/// Start with `mizzen up` (everything at one address), `mizzen serve --model-repository DIR` (models
/// only), `mizzen tune experiment.yaml` or `mizzen run pipeline.yaml` (no server needed).
#[derive(Debug, Parser)]
#[command(name = "mizzen", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Up(up::Up),
    Tune(tune::Tune),
    Suggest(suggest::Suggest),
    Run(run::Run),
    Get(get::Get),
    Logs(logs::Logs),
    Delete(delete::Delete),
    Models(models::Models),
    Bench(bench::Bench),
    Operator(operator::Operator),
    Doctor(doctor::Doctor),
    Token(token::Token),
    Agent(agent::Agent),
}

/// How long the end waits for a stderr that takes no lines: time for a slow reader, not for one that is gone.
const LOG_PATIENCE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = std::io::stdout();
    let result = match &cli.command {
        Command::Serve(command) => command.run(&cli.global, &mut out),
        Command::Up(command) => command.run(&cli.global, &mut out),
        Command::Tune(command) => command.run(&cli.global, &mut out),
        Command::Suggest(command) => command.run(&cli.global, &mut out),
        Command::Run(command) => command.run(&cli.global, &mut out),
        Command::Get(command) => command.run(&cli.global, &mut out),
        Command::Logs(command) => command.run(&cli.global, &mut out),
        Command::Delete(command) => command.run(&cli.global, &mut out),
        Command::Models(command) => command.run(&cli.global, &mut out),
        Command::Bench(command) => command.run(&cli.global, &mut out),
        Command::Operator(command) => command.run(&cli.global, &mut out),
        Command::Doctor(command) => command.run(&cli.global, &mut out),
        Command::Token(command) => command.run(&mut out),
        Command::Agent(command) => command.run(),
    };
    let status = match result.and_then(|()| out.flush().map_err(Failure::from)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    };
    mizzen_telemetry::flush(LOG_PATIENCE);
    status
}
