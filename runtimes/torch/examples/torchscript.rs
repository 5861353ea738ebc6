//! Compiles TorchScript: `torchscript OUT [NAME=DIMS[:VALUES]]... < SOURCE`, the source being a
//! module's methods and the rest its FP32 buffers (`w=2,1:0.5,-1`; without values, made up;
//! `w=2,1@FILE:OFFSET` out of a file, where they are little-endian). For tests that have no Python
//! torch.

use std::{io::Read, path::Path, process::ExitCode, str::FromStr};

use mizzen_torch::testing::compile;

type Parsed = (String, Vec<i64>, Vec<f32>);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            #[expect(clippy::print_stderr, reason = "it is a command")]
            {
                eprintln!("torchscript: {reason}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let mut arguments = std::env::args().skip(1);
    let out = arguments.next().ok_or("expected a file to write")?;
    let buffers = arguments.map(|text| buffer(&text)).collect::<Result<Vec<_>, _>>()?;
    let buffers: Vec<_> =
        buffers.iter().map(|(name, dims, values)| (&**name, &**dims, &**values)).collect();
    let mut source = String::new();
    std::io::stdin().read_to_string(&mut source).map_err(|error| error.to_string())?;
    compile(&source, &buffers, Path::new(&out))
}

fn buffer(text: &str) -> Result<Parsed, String> {
    let bad = || format!("expected NAME=DIMS[:VALUES], got `{text}`");
    let (name, rest) = text.split_once('=').ok_or_else(bad)?;
    if let Some((dims, place)) = rest.split_once('@') {
        let (file, offset) = place.rsplit_once(':').ok_or_else(bad)?;
        let dims: Vec<i64> = numbers(dims).ok_or_else(bad)?;
        let elements = dims.iter().product::<i64>() as usize;
        let bytes = std::fs::read(file).map_err(|error| format!("{file}: {error}"))?;
        let from: usize = offset.parse().map_err(|_| bad())?;
        let bytes = bytes.get(from..from + elements * 4).ok_or_else(bad)?;
        let values = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        return Ok((name.to_owned(), dims, values.collect()));
    }
    let (dims, values) = rest.split_once(':').map_or((rest, None), |(d, v)| (d, Some(v)));
    let dims: Vec<i64> = numbers(dims).ok_or_else(bad)?;
    let elements = dims.iter().product::<i64>();
    let values = match values {
        Some(values) => numbers(values).ok_or_else(bad)?,
        // So small that a product of matrices stays in range.
        None => (0..elements).map(|i| (i as f32 * 12.9898).sin() / elements as f32).collect(),
    };
    match elements == values.len() as i64 {
        true => Ok((name.to_owned(), dims, values)),
        false => Err(bad()),
    }
}

fn numbers<T: FromStr>(text: &str) -> Option<Vec<T>> {
    text.split(',').filter(|part| !part.is_empty()).map(|part| part.parse().ok()).collect()
}
