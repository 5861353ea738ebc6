//! The bare engine: `bare_torch MODEL DIMS THREADS SECONDS` runs a module of one FP32 tensor in a
//! loop with nothing around it, to measure the server against, and prints runs per second.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a command")]

use std::{path::Path, process::ExitCode};

use mizzen_torch::testing::bare_loop;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(per_second) => {
            println!("{per_second:.3}");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("bare_torch: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<f64, String> {
    let [model, dims, threads, seconds] = arguments else {
        return Err("expected MODEL DIMS THREADS SECONDS".to_owned());
    };
    let bad = |text: &str| format!("`{text}` is no number");
    let dims = dims.split(',').map(|dim| dim.parse().map_err(|_| bad(dim)));
    let dims = dims.collect::<Result<Vec<i64>, _>>()?;
    let threads = threads.parse().map_err(|_| bad(threads))?;
    bare_loop(Path::new(model), &dims, threads, seconds.parse().map_err(|_| bad(seconds))?)
}
