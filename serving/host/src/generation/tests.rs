//! Goal: whatever the engine, the clients and the clock do, every sequence gets its own tokens or one
//! error, and the driver ends when it is told to.
//! Method: the driver over a fake engine whose answers are known, with authors that pick the
//! likeliest token.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use mizzen_runtime_api::{
    Device, Generative, Generator, GeneratorCard, GeneratorOptions, Instance, InstanceOptions,
    Model, RuntimeError, Signature, StepRow, fake_generator::FakeGenerative,
};
use mizzen_serving_steps::{Limits, NewSequence, Steps};
use mizzen_types::{Coded as _, ErrorCode};

use super::{Author, Counts, Desk, Driver, Ended, GenerationCounts, Next, Submission};
use crate::ServeError;

const VOCABULARY: usize = 19;

/// A fake model; a row that holds token `13` fails, one that holds `14` panics.
struct Moody {
    fake: FakeGenerative,
    opened: Arc<AtomicUsize>,
}

struct MoodyGenerator {
    inner: Box<dyn Generator>,
}

impl Generator for MoodyGenerator {
    fn step(&mut self, rows: &[StepRow<'_>], logits: &mut Vec<f32>) -> Result<(), RuntimeError> {
        let has = |token| rows.iter().any(|row| row.tokens.contains(&token));
        assert!(!has(14), "the engine panics on demand");
        if has(13) {
            return Err(RuntimeError::Run("unlucky".into()));
        }
        self.inner.step(rows, logits)
    }
}

impl Generative for Moody {
    fn card(&self) -> &GeneratorCard {
        self.fake.card()
    }

    fn open(&self, options: &GeneratorOptions) -> Result<Box<dyn Generator>, RuntimeError> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(MoodyGenerator { inner: self.fake.open(options)? }))
    }
}

impl Model for Moody {
    fn signature(&self) -> &Signature {
        unreachable!("nobody asks")
    }

    fn open(&self, _: &InstanceOptions) -> Result<Box<dyn Instance>, RuntimeError> {
        unreachable!("nobody asks")
    }

    fn generative(&self) -> Option<&dyn Generative> {
        Some(self)
    }
}

/// Picks the likeliest token but 13 and 14, so many times.
struct Greedy {
    left: usize,
    answer: Vec<u32>,
    gone: Arc<AtomicBool>,
    told: mpsc::Sender<Result<Vec<u32>, ServeError>>,
    found: Arc<Mutex<Option<usize>>>,
    positions: Arc<Mutex<BTreeSet<usize>>>,
}

fn likeliest(logits: &[f32]) -> u32 {
    let all = logits.iter().enumerate().filter(|(token, _)| !matches!(token, 13 | 14));
    all.max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(token, _)| token as u32)
}

impl Author for Greedy {
    fn accepted(&mut self) {}

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    fn started(&mut self, found: usize) {
        assert!(self.found.lock().unwrap().replace(found).is_none(), "it starts once");
    }

    fn read(&mut self, position: usize, _: &[f32]) {
        self.positions.lock().unwrap().insert(position);
    }

    fn next(&mut self, logits: &mut [f32], _: usize) -> Result<Next, ServeError> {
        let token = likeliest(logits);
        self.answer.push(token);
        self.left -= 1;
        let ended = (self.left == 0).then_some(Ended::Length);
        if ended.is_some() {
            let _ = self.told.send(Ok(std::mem::take(&mut self.answer)));
        }
        Ok(Next { tokens: vec![token], ended })
    }

    fn fail(&mut self, error: ServeError) {
        let _ = self.told.send(Err(error));
    }
}

struct Asked {
    gone: Arc<AtomicBool>,
    told: mpsc::Receiver<Result<Vec<u32>, ServeError>>,
    found: Arc<Mutex<Option<usize>>>,
    positions: Arc<Mutex<BTreeSet<usize>>>,
}

impl Asked {
    fn answer(&self) -> Result<Vec<u32>, ServeError> {
        self.told.recv_timeout(Duration::from_secs(30)).expect("an answer or an error, at last")
    }
}

struct World {
    desk: Arc<Desk>,
    counts: Arc<Counts>,
    opened: Arc<AtomicUsize>,
    driver: JoinHandle<()>,
}

impl World {
    fn new(waiting: usize) -> Self {
        let (page_tokens, pages) = (4, 24);
        let limits = Limits {
            page_tokens,
            pages,
            context: 80,
            step_tokens: 40,
            sequences: 8,
            waiting,
            stretch: 2.0,
            reading: Duration::from_millis(100),
            patience: Duration::from_secs(1),
        };
        let opened = Arc::new(AtomicUsize::new(0));
        let fake = FakeGenerative::new(VOCABULARY, 80);
        let model: Arc<dyn Model> = Arc::new(Moody { fake, opened: opened.clone() });
        let options = GeneratorOptions { threads: 1, device: Device::Cpu, page_tokens, pages };
        let (desk, counts) = <(Arc<Desk>, Arc<Counts>)>::default();
        let steps = Steps::new(limits).unwrap();
        let driver = Driver::open(&"moody".into(), &model, options, steps, counts.clone()).unwrap();
        let at = desk.clone();
        let driver = std::thread::spawn(move || driver.run(&at));
        Self { desk, counts, opened, driver }
    }

    fn ask(&self, prompt: &[u32], tokens: usize) -> Asked {
        self.ask_with(NewSequence { prompt: prompt.to_vec(), ..NewSequence::default() }, tokens)
    }

    fn ask_with(&self, sequence: NewSequence, tokens: usize) -> Asked {
        let (told, receiver) = mpsc::channel();
        let (gone, found, positions) = Default::default();
        let asked = Asked { gone, told: receiver, found, positions };
        let author = Greedy {
            left: tokens,
            answer: Vec::new(),
            gone: asked.gone.clone(),
            told,
            found: asked.found.clone(),
            positions: asked.positions.clone(),
        };
        let handed_in = self.desk.submit(Submission { sequence, author: Box::new(author) });
        assert!(handed_in.is_ok());
        asked
    }

    /// What was counted in all.
    fn end(self) -> GenerationCounts {
        self.desk.close();
        self.driver.join().expect("the driver does not panic");
        let counts = self.counts.lock().clone();
        assert_eq!((counts.steps.running, counts.steps.pages_held), (0, 0));
        counts
    }
}

fn expected(prompt: &[u32], tokens: usize) -> Vec<u32> {
    let fake = FakeGenerative::new(VOCABULARY, 80);
    let mut whole = prompt.to_vec();
    for _ in 0..tokens {
        whole.push(likeliest(&fake.reference(&whole)));
    }
    whole.split_off(prompt.len())
}

fn prompt(length: u32, seed: u32) -> Vec<u32> {
    (0..length).map(|i| (i * (seed + 3) + seed) % 13).collect()
}

#[test]
fn each_gets_what_it_would_get_alone() {
    let world = World::new(100);
    let prompts: Vec<_> = (0..20).map(|seed| prompt(1 + seed % 30, seed)).collect();
    let asked: Vec<_> = prompts.iter().map(|prompt| world.ask(prompt, 12)).collect();
    for (prompt, asked) in prompts.iter().zip(asked) {
        assert_eq!(asked.answer().unwrap(), expected(prompt, 12));
    }
    // What was read before is found, but for the last page.
    let again = world.ask(&prompts[19], 3);
    assert_eq!(again.answer().unwrap(), expected(&prompts[19], 3));
    assert_eq!(*again.found.lock().unwrap(), Some(16));
    let counts = world.end();
    assert_eq!(counts.made_tokens, 20 * 12 + 3);
    assert_eq!(counts.ended[&Ended::Length], 21);
    assert_eq!(counts.first_token.counts.iter().sum::<u64>(), 21);
    assert_eq!(counts.between_tokens.counts.iter().sum::<u64>(), 20 * 11 + 2);
    assert_eq!(counts.prompt_length.sum, prompts.iter().map(Vec::len).sum::<usize>() as f64 + 20.0);
}

#[test]
fn what_follows_each_token_of_a_prompt_is_told_where_it_is_wanted() {
    let world = World::new(100);
    let prompt = prompt(45, 1); // more than one piece
    for _ in 0..2 {
        let sequence =
            NewSequence { prompt: prompt.clone(), wants_prompt: true, ..NewSequence::default() };
        let asked = world.ask_with(sequence, 2);
        assert_eq!(asked.answer().unwrap(), expected(&prompt, 2));
        assert_eq!(*asked.positions.lock().unwrap(), (0..45).collect());
        assert_eq!(*asked.found.lock().unwrap(), Some(0));
    }
    world.end();
}

#[test]
fn only_who_is_to_blame_fails() {
    let world = World::new(100);
    let good = world.ask(&prompt(9, 2), 30);
    let unlucky = world.ask(&[1, 2, 13], 5);
    let error = unlucky.answer().unwrap_err();
    assert_eq!(error.code(), ErrorCode::Internal);
    assert!(error.message().contains("moody"), "{error}");
    assert_eq!(good.answer().unwrap(), expected(&prompt(9, 2), 30));
    assert_eq!(world.opened.load(Ordering::SeqCst), 1);
    world.end();
}

#[test]
fn after_a_panic_others_are_answered_by_another_generator() {
    let world = World::new(100);
    let panics = world.ask(&[1, 14], 5);
    assert_eq!(panics.answer().unwrap_err().code(), ErrorCode::Internal);
    let later = world.ask(&prompt(9, 2), 10);
    assert_eq!(later.answer().unwrap(), expected(&prompt(9, 2), 10));
    assert_eq!(world.opened.load(Ordering::SeqCst), 2);
    world.end();
}

#[test]
fn what_cannot_be_is_refused_and_what_waits_too_long_expires() {
    let world = World::new(3);
    for (prompt, code) in
        [(vec![], ErrorCode::InvalidArgument), (prompt(80, 0), ErrorCode::InvalidArgument)]
    {
        assert_eq!(world.ask(&prompt, 1).answer().unwrap_err().code(), code);
    }
    let late =
        NewSequence { prompt: vec![1], deadline: Some(Duration::ZERO), ..NewSequence::default() };
    assert_eq!(world.ask_with(late, 1).answer().unwrap_err().code(), ErrorCode::DeadlineExceeded);
    let many: Vec<_> = (0..200).map(|_| world.ask(&[1, 2, 3], 60)).collect();
    let answers: Vec<_> = many.iter().map(Asked::answer).collect();
    let refused = answers.iter().filter_map(|answer| answer.as_ref().err());
    assert!(refused.clone().all(|error| error.code() == ErrorCode::ResourceExhausted));
    assert!(refused.clone().all(|error| error.retry_after.is_some()));
    world.end();
}

#[test]
fn who_has_gone_is_let_go_and_a_closed_desk_takes_no_more() {
    let world = World::new(100);
    let gone = world.ask(&[1, 2, 3], 70);
    gone.gone.store(true, Ordering::SeqCst);
    let stays = world.ask(&[1, 2, 3], 70);
    world.desk.close();
    let refused = world.desk.submit(Submission {
        sequence: NewSequence { prompt: vec![1], ..NewSequence::default() },
        author: Box::new(Greedy {
            left: 1,
            answer: Vec::new(),
            gone: Arc::default(),
            told: mpsc::channel().0,
            found: Arc::default(),
            positions: Arc::default(),
        }),
    });
    assert!(refused.is_err());
    assert_eq!(stays.answer().unwrap(), expected(&[1, 2, 3], 70), "what was taken is answered");
    world.end();
}
