//! Tokens per second of a model that makes text: reading prompts, then adding a token at a time.
//!
//!     cargo bench -p mizzen-runtime-candle --bench generation -- MODEL.gguf [THREADS [STREAMS]]
//!
//! MODEL.gguf may also be a directory with `config.json` and safetensors. Each stream has a prompt of
//! 32 tokens and gets 64; a prompt of 512 tokens is read beside. Times are of the best of five runs:
//! what disturbs one makes it slower, never faster; processor time is its average.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints and stops")]

use std::{
    path::Path,
    time::{Duration, Instant},
};

use mizzen_runtime_api::{
    Device, Generative, GeneratorOptions, Loader, ModelSource, StepRow, Want,
};
use mizzen_runtime_candle::CandleLoader;

const PAGE: usize = 16;
const PROMPT: usize = 32;
const LONG: usize = 512;
const ANSWER: usize = 64;
const RUNS: usize = 5;

fn main() {
    let args: Vec<_> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let Some(path) = args.first().map(Path::new) else {
        println!("usage: generation MODEL.gguf [THREADS [STREAMS]]");
        return;
    };
    let number = |index: usize| args.get(index).and_then(|arg| arg.parse().ok()).unwrap_or(1);
    let (threads, streams): (usize, usize) = (number(1), number(2));
    let (dir, file) = match path.is_dir() {
        true => (path, None),
        false => {
            (path.parent().unwrap(), path.file_name().map(|name| name.to_str().unwrap().into()))
        }
    };
    let source = ModelSource {
        name: "m".into(),
        version: 1,
        dir: dir.into(),
        file,
        parameters: args.get(3).map(|q| ("quantize".to_owned(), q.clone())).into_iter().collect(),
        declared: Default::default(),
        decoupled: false,
    };
    let begin = Instant::now();
    let model = CandleLoader.load(&source).unwrap();
    let model = model.generative().unwrap();
    let card = model.card();
    println!(
        "loaded in {:.2} s: {} weights of {} MB, {} bytes of cache a token",
        begin.elapsed().as_secs_f64(),
        card.architecture,
        card.weight_bytes >> 20,
        card.cache_bytes_per_token
    );
    prefill(model, threads);
    decode(model, threads, streams);
}

fn options(threads: usize, tokens: usize, streams: usize) -> GeneratorOptions {
    let pages = tokens.div_ceil(PAGE) * streams;
    GeneratorOptions { threads, device: Device::Cpu, page_tokens: PAGE, pages }
}

/// Tokens of a prompt: any will do, as the arithmetic is the same.
fn prompt(model: &dyn Generative, stream: usize, tokens: usize) -> Vec<u32> {
    let words = model.card().vocabulary;
    (0..tokens).map(|i| ((i * 7919 + stream * 104_729) % words) as u32).collect()
}

fn prefill(model: &dyn Generative, threads: usize) {
    let mut generator = model.open(&options(threads, LONG, 1)).unwrap();
    let (tokens, pages) = (prompt(model, 0, LONG), (0..(LONG / PAGE) as u32).collect::<Vec<_>>());
    let mut logits = Vec::new();
    let (mut best, cpu) = (Duration::MAX, cpu());
    for _ in 0..RUNS {
        let begin = Instant::now();
        let row = StepRow { tokens: &tokens, start: 0, pages: &pages, want: Want::Last };
        generator.step(&[row], &mut logits).unwrap();
        best = best.min(begin.elapsed());
    }
    let cpu = (self::cpu() - cpu).as_secs_f64() / (RUNS * LONG) as f64;
    println!(
        "prompt of {LONG}, {threads} threads: {:.0} tokens/s, {:.3} ms of processor time a token",
        LONG as f64 / best.as_secs_f64(),
        cpu * 1e3
    );
}

fn decode(model: &dyn Generative, threads: usize, streams: usize) {
    let mut generator = model.open(&options(threads, PROMPT + ANSWER, streams)).unwrap();
    let per_stream = (PROMPT + ANSWER).div_ceil(PAGE) as u32;
    let pages: Vec<Vec<u32>> = (0..streams as u32)
        .map(|stream| (stream * per_stream..(stream + 1) * per_stream).collect())
        .collect();
    let words = model.card().vocabulary;
    let (mut best, mut steps, mut used) = (Duration::MAX, Vec::new(), Duration::ZERO);
    let mut logits = Vec::new();
    for _ in 0..RUNS {
        let prompts: Vec<_> = (0..streams).map(|stream| prompt(model, stream, PROMPT)).collect();
        let rows: Vec<_> = prompts
            .iter()
            .zip(&pages)
            .map(|(tokens, pages)| StepRow { tokens, start: 0, pages, want: Want::Last })
            .collect();
        generator.step(&rows, &mut logits).unwrap();
        let (begin, cpu) = (Instant::now(), cpu());
        for position in PROMPT..PROMPT + ANSWER {
            let picked: Vec<u32> = logits.chunks(words).map(largest).collect();
            let rows: Vec<_> = picked
                .iter()
                .zip(&pages)
                .map(|(token, pages)| StepRow {
                    tokens: std::slice::from_ref(token),
                    start: position,
                    pages,
                    want: Want::Last,
                })
                .collect();
            let step = Instant::now();
            generator.step(&rows, &mut logits).unwrap();
            steps.push(step.elapsed());
        }
        best = best.min(begin.elapsed());
        used += self::cpu() - cpu;
    }
    steps.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let tokens = streams * ANSWER;
    println!(
        "{streams} streams, {threads} threads: {:.1} tokens/s, {:.2} ms of processor time a token; a \
         step took {:.2} ms (median), {:.2} ms (of a hundred the longest)",
        tokens as f64 / best.as_secs_f64(),
        ms(used) / (RUNS * tokens) as f64,
        ms(steps[steps.len() / 2]),
        ms(steps[steps.len() * 99 / 100]),
    );
}

fn largest(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32
}

/// Processor time of this process, of all its threads.
fn cpu() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let nanos = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}
