//! The bare engine: a loop over ONNX Runtime with nothing around it, to measure the server against.
//!
//! `cargo bench --bench bare_engine -- MODEL BATCH SECONDS LIBRARY` prints one line of JSON: runs and rows per
//! second, and the processor time of one run. One session, one thread, the same settings as an instance of
//! the server, random rows.

use std::{
    error::Error,
    io::Write as _,
    time::{Duration, Instant},
};

use ort::{session::Session, value::TensorRef};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [model, batch, seconds, library] = arguments.as_slice() else {
        return Err("expected MODEL BATCH SECONDS LIBRARY".into());
    };
    let (batch, seconds): (usize, f64) = (batch.parse()?, seconds.parse()?);
    let environment = ort::init_from(library)?.with_telemetry(false).build()?;
    let mut session = open(&environment, model).map_err(|e| e.to_string())?;
    let input = session.inputs()[0].name().to_owned();
    let dims = session.inputs()[0].dtype().tensor_shape().ok_or("the input is no tensor")?.to_vec();
    let row: usize = dims[1..].iter().map(|d| usize::try_from(*d).unwrap_or(1)).product();
    let shape: Vec<usize> = std::iter::once(batch)
        .chain(dims[1..].iter().map(|d| usize::try_from(*d).unwrap_or(1)))
        .collect();
    let data: Vec<f32> = (0..batch * row).map(|i| (i % 97) as f32 / 97.0).collect();

    let mut run = || -> ort::Result<()> {
        let tensor = TensorRef::from_array_view((shape.clone(), data.as_slice()))?;
        let outputs = session.run(ort::inputs![input.as_str() => tensor])?;
        std::hint::black_box(outputs.len());
        Ok(())
    };
    let warm = Instant::now();
    while warm.elapsed() < Duration::from_millis(500) {
        run()?;
    }
    let (begin, cpu, mut runs) = (Instant::now(), cpu_seconds(), 0u64);
    while begin.elapsed().as_secs_f64() < seconds {
        run()?;
        runs += 1;
    }
    let (took, cpu) = (begin.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let per_second = runs as f64 / took;
    writeln!(
        std::io::stdout(),
        "{{\"batch\":{batch},\"runs_per_second\":{per_second:.2},\"rows_per_second\":{:.2},\"cpu_us_per_run\":{:.2}}}",
        per_second * batch as f64,
        cpu * 1e6 / runs.max(1) as f64
    )?;
    Ok(())
}

fn open(environment: &ort::environment::Environment, model: &str) -> ort::Result<Session> {
    let builder = Session::builder(environment)?.with_intra_threads(1)?.with_inter_threads(1)?;
    let mut builder = builder.with_intra_op_spinning(false)?;
    builder.commit_from_file(model)
}

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|f| f.parse::<f64>().ok()).sum::<f64>() / 100.0
}
