//! Checks of engines whose models make text.
//!
//! The right answer is the engine's own, for one sequence read in one step from pages in order;
//! whether that is what the weights mean is for the engine's own tests to say.

use super::{Failure, kept, support::said};
use crate::{Device, Generative, Generator, GeneratorOptions, RuntimeError, StepRow, Want};

/// What the checks need of such an engine.
pub struct GeneratorFixture<'a> {
    /// A model, with a vocabulary of at least 16 tokens and a context of at least 40.
    pub model: &'a dyn Generative,
    /// How far a logit may be off, relative to 1 or its size, whichever is larger.
    pub tolerance: f32,
    /// Threads to run with.
    pub threads: usize,
}

type Check = fn(&GeneratorFixture<'_>) -> Result<(), String>;

#[rustfmt::skip]
const CHECKS: [(&str, Check); 10] = [
    ("a card is whole and the same each time",                    card),
    ("logits depend on every token before them",                  past_counts),
    ("a prompt may be cut into steps anywhere",                   cut_anywhere),
    ("each wanted token gets the row that its own step would",    all_tokens),
    ("a row's answer depends on that row alone",                  rows_alone),
    ("pages may lie anywhere and in any order",                   pages_anywhere),
    ("sequences that begin alike may share pages",                shared_pages),
    ("what was put at a position may be put again",               rewound),
    ("generators at once keep to their own caches",               own_caches),
    ("a row or a cache that cannot be is refused and harms nothing", refused),
];

/// Runs every check of generators.
///
/// # Panics
/// If any promise is broken, with all of them in the message.
pub fn check_generator(fixture: &GeneratorFixture<'_>) {
    let failures = generator_failures(fixture, "");
    let lines: Vec<_> = failures.iter().map(|failure| format!("\n  {failure}")).collect();
    let name = &fixture.model.card().architecture;
    assert!(failures.is_empty(), "{name} does not conform:{}", lines.concat());
}

/// Runs the checks whose promise contains this text (every one, if it is empty) and returns the
/// promises that were broken.
pub fn generator_failures(fixture: &GeneratorFixture<'_>, promise: &str) -> Vec<Failure> {
    let checks = CHECKS.into_iter().filter(|(sentence, _)| sentence.contains(promise));
    checks.filter_map(|(promise, check)| kept(promise, || check(fixture))).collect()
}

const PAGE: usize = 4;
const PAGES: usize = 32;
/// Tokens of the sequences that are tried: more than a page, and no multiple of one.
const LONG: usize = 23;

fn options(fixture: &GeneratorFixture<'_>) -> GeneratorOptions {
    let (threads, device) = (fixture.threads, Device::Cpu);
    GeneratorOptions { threads, device, page_tokens: PAGE, pages: PAGES }
}

fn open(fixture: &GeneratorFixture<'_>) -> Result<Box<dyn Generator>, String> {
    fixture.model.open(&options(fixture)).map_err(|error| said("open", &error))
}

/// Tokens that differ from seed to seed.
fn tokens(fixture: &GeneratorFixture<'_>, seed: usize) -> Vec<u32> {
    let vocabulary = fixture.model.card().vocabulary;
    (0..LONG).map(|i| ((i * 7 + seed * 13 + i * i * (seed + 1)) % vocabulary) as u32).collect()
}

/// As many pages as a sequence needs, from this one on.
fn pages(first: u32) -> Vec<u32> {
    (first..first + LONG.div_ceil(PAGE) as u32).collect()
}

fn step(generator: &mut dyn Generator, rows: &[StepRow<'_>]) -> Result<Vec<f32>, String> {
    let mut logits = vec![0.5; 3]; // to be cleared
    generator.step(rows, &mut logits).map_err(|error| said("step", &error))?;
    Ok(logits)
}

fn last<'a>(tokens: &'a [u32], start: usize, pages: &'a [u32]) -> StepRow<'a> {
    StepRow { tokens, start, pages, want: Want::Last }
}

/// What follows a sequence, by itself in a generator of its own.
fn alone(fixture: &GeneratorFixture<'_>, tokens: &[u32]) -> Result<Vec<f32>, String> {
    step(&mut *open(fixture)?, &[last(tokens, 0, &pages(0))])
}

fn same(fixture: &GeneratorFixture<'_>, got: &[f32], want: &[f32]) -> Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("{} logits; expected {}", got.len(), want.len()));
    }
    let near = |got: f32, want: f32| (got - want).abs() <= fixture.tolerance * want.abs().max(1.0);
    let pairs = || got.iter().zip(want);
    match pairs().position(|(got, want)| !near(*got, *want)) {
        Some(index) => Err(format!("{} at {index}; expected {}", got[index], want[index])),
        None => Ok(()),
    }
}

fn card(fixture: &GeneratorFixture<'_>) -> Result<(), String> {
    let card = fixture.model.card();
    if card != fixture.model.card() {
        return Err("it changes".to_owned());
    }
    let known = |token: &u32| (*token as usize) < card.vocabulary;
    if !card.ends.iter().chain(&card.begin).all(known) {
        return Err("it begins or ends with a token that it does not know".to_owned());
    }
    if card.vocabulary == 0 || card.context == 0 || card.cache_bytes_per_token == 0 {
        return Err(format!("it has a zero: {card:?}"));
    }
    Ok(())
}

fn past_counts(fixture: &GeneratorFixture<'_>) -> Result<(), String> {
    let tokens = tokens(fixture, 0);
    let answer = alone(fixture, &tokens)?;
    if answer.len() != fixture.model.card().vocabulary || answer.iter().any(|x| !x.is_finite()) {
        return Err(format!("{} logits, or some that are not numbers", answer.len()));
    }
    for changed in [0, LONG / 2, LONG - 1] {
        let mut other = tokens.clone();
        other[changed] = (other[changed] + 1) % fixture.model.card().vocabulary as u32;
        // The first token must matter also when the steps that read it are over.
        let (mut generator, pages) = (open(fixture)?, pages(0));
        let (begin, end) = other.split_at(LONG - 2);
        step(&mut *generator, &[last(begin, 0, &pages)])?;
        if step(&mut *generator, &[last(end, begin.len(), &pages)])? == answer {
            return Err(format!("another token at {changed} changes nothing"));
        }
    }
    Ok(())
}

fn cut_anywhere(fixture: &GeneratorFixture<'_>) -> Result<(), String> {
    let (tokens, pages) = (tokens(fixture, 1), pages(0));
    let want = alone(fixture, &tokens)?;
    for size in [1, 3, PAGE, 10] {
        let (mut generator, mut got) = (open(fixture)?, Vec::new());
        for (index, piece) in tokens.chunks(size).enumerate() {
            got = step(&mut *generator, &[last(piece, index * size, &pages)])?;
        }
        same(fixture, &got, &want).map_err(|reason| format!("pieces of {size}: {reason}"))?;
    }
    Ok(())
}

fn all_tokens(fixture: &GeneratorFixture<'_>) -> Result<(), String> {
    let (others, tokens, pages) = (tokens(fixture, 3), tokens(fixture, 2), pages(0));
    let rows = [
        StepRow { want: Want::Nothing, ..last(&others, 0, &[20, 21, 22, 23, 24, 25]) },
        StepRow { want: Want::All, ..last(&tokens, 0, &pages) },
        last(&others, 0, &[10, 11, 12, 13, 14, 15]),
    ];
    let got = step(&mut *open(fixture)?, &rows)?;
    let mut want = Vec::new();
    let mut generator = open(fixture)?;
    for (index, token) in tokens.iter().enumerate() {
        want.extend(step(&mut *generator, &[last(&[*token], index, &pages)])?);
    }
    want.extend(alone(fixture, &others)?);
    same(fixture, &got, &want)
}

fn rows_alone(fixture: &GeneratorFixture<'_>) -> Result<(), String> {
    let sequences: Vec<_> = (0..4).map(|seed| tokens(fixture, seed)).collect();
    let pages: Vec<_> = (0..4).map(|row| pages(row * 8)).collect();
    let mut generator = open(fixture)?;
    // The first two are read beforehand, but for their last token.
    let begun: Vec<_> =
        (0..2).map(|row| last(&sequences[row][..LONG - 1], 0, &pages[row])).collect();
    step(&mut *generator, &begun)?;
    let rows: Vec<_> = (0..4)
        .map(|row| {
            let start = if row < 2 { LONG - 1 } else { 0 };
            last(&sequences[row][start..], start, &pages[row])
        })
        .collect();
    let got = step(&mut *generator, &rows)?;
    let want: Vec<_> =
        sequences.iter().map(|tokens| alone(fixture, tokens)).collect::<Result<_, _>>()?;
    same(fixture, &got, &want.concat())
}

fn pages_anywhere(fixture: &GeneratorFixture<'_>) -> Result<(), String> {
    let (first, second) = (tokens(fixture, 4), tokens(fixture, 12));
    let (one, other) = ([31, 3, 17, 0, 30, 8, 1], [28, 5, 2, 9, 4, 11]);
    let mut generator = open(fixture)?;
    let (begin, end) = first.split_at(LONG - 3);
    step(&mut *generator, &[last(begin, 0, &one)])?;
    let got = step(&mut *generator, &[last(&second, 0, &other)])?;
    same(fixture, &got, &alone(fixture, &second)?)?;
    let got = step(&mut *generator, &[last(end, begin.len(), &one)])?;
    same(fixture, &got, &alone(fixture, &first)?)
}

fn shared_pages(fixture: &GeneratorFixture<'_>) -> Result<(), String> {
    const COMMON: usize = 3 * PAGE;
    let first = tokens(fixture, 5);
    let mut second = tokens(fixture, 6);
    second[..COMMON].copy_from_slice(&first[..COMMON]);
    let (own, shared) = (pages(0), [0, 1, 2, 20, 21, 22]);
    let mut generator = open(fixture)?;
    step(&mut *generator, &[last(&first[..COMMON], 0, &own)])?;
    let rows = [last(&first[COMMON..], COMMON, &own), last(&second[COMMON..], COMMON, &shared)];
    let got = step(&mut *generator, &rows)?;
    let want = [alone(fixture, &first)?, alone(fixture, &second)?].concat();
    same(fixture, &got, &want)
}

fn rewound(fixture: &GeneratorFixture<'_>) -> Result<(), String> {
    let (first, mut second, pages) = (tokens(fixture, 7), tokens(fixture, 8), pages(0));
    second[..6].copy_from_slice(&first[..6]);
    let mut generator = open(fixture)?;
    step(&mut *generator, &[last(&first, 0, &pages)])?;
    let got = step(&mut *generator, &[last(&second[6..], 6, &pages)])?;
    same(fixture, &got, &alone(fixture, &second)?)
}

fn own_caches(fixture: &GeneratorFixture<'_>) -> Result<(), String> {
    let (first, second, pages) = (tokens(fixture, 9), tokens(fixture, 10), pages(0));
    let (mut one, mut other) = (open(fixture)?, open(fixture)?);
    step(&mut *one, &[last(&first[..LONG - 1], 0, &pages)])?;
    step(&mut *other, &[last(&second[..LONG - 1], 0, &pages)])?;
    let got = step(&mut *one, &[last(&first[LONG - 1..], LONG - 1, &pages)])?;
    same(fixture, &got, &alone(fixture, &first)?)?;
    let got = step(&mut *other, &[last(&second[LONG - 1..], LONG - 1, &pages)])?;
    same(fixture, &got, &alone(fixture, &second)?)
}

fn refused(fixture: &GeneratorFixture<'_>) -> Result<(), String> {
    let card = fixture.model.card();
    let (good, own) = (tokens(fixture, 11), pages(0));
    let mut generator = open(fixture)?;
    let (begin, end) = good.split_at(LONG - 1);
    step(&mut *generator, &[last(begin, 0, &own)])?;
    let (none, strange) = ([0u32; 0], [card.vocabulary as u32]);
    let bad = [
        ("no tokens", last(&none, 0, &own)),
        ("a token that does not exist", last(&strange, 0, &own)),
        ("too few pages", last(&good, 0, &own[1..])),
        ("a page that does not exist", last(&good[..1], 0, &[PAGES as u32])),
        ("more than the context", last(end, card.context, &own)),
        ("a position that overflows", last(end, usize::MAX, &own)),
    ];
    for (what, row) in bad {
        match generator.step(&[row], &mut Vec::new()) {
            Err(RuntimeError::Input { .. }) => {}
            Err(error) => return Err(format!("{what}: refused as {error:?}")),
            Ok(()) => return Err(format!("{what}: taken")),
        }
    }
    let got = step(&mut *generator, &[last(end, begin.len(), &own)])?;
    same(fixture, &got, &alone(fixture, &good)?)?;
    let absurd = GeneratorOptions { pages: usize::MAX / 2, ..options(fixture) };
    if fixture.model.open(&absurd).is_ok() {
        return Err("a cache larger than any memory was opened".to_owned());
    }
    Ok(())
}
