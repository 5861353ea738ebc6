//! Checks of engines whose models answer a request any number of times.

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use mizzen_types::NamedTensor;

use super::{
    Failure, kept,
    support::{ONE_THREAD, said, same},
};
use crate::{Cancel, Instance, Loader, ModelSource, Responses, RuntimeError, Sink, StreamRequest};

/// What the checks need of such an engine.
pub struct StreamFixture<'a> {
    /// The engine.
    pub loader: &'a dyn Loader,
    /// A model of it.
    pub source: ModelSource,
    /// A request that has so many answers (0 among them), different from seed to seed.
    pub request: &'a dyn Fn(usize, u64) -> Vec<NamedTensor>,
    /// The right answers: every output of each, in the model's order.
    pub reference: &'a dyn Fn(&[NamedTensor]) -> Vec<Vec<NamedTensor>>,
    /// A request whose run takes at least half a minute unless it is cancelled, most of it between
    /// its first answer and its second.
    pub slow: Vec<NamedTensor>,
    /// A request that has thousands of answers, sent without a pause.
    pub long: Vec<NamedTensor>,
}

type Check = fn(&StreamFixture<'_>) -> Result<(), String>;

#[rustfmt::skip]
const CHECKS: [(&str, Check); 10] = [
    ("answers are right, in order, and as many as there are",     right),
    ("requests at once each get their own answers",               at_once),
    ("outputs of a stream come as asked, in the order asked",     outputs_as_asked),
    ("a stream of an input that does not fit is refused, once, and harms nothing", misfit),
    ("a stream of an unknown output is refused and harms nothing", unknown_output),
    ("a stream that is cancelled before it starts sends nothing", cancelled_before),
    ("a stream ends soon after it is cancelled",                  cancelled_during),
    ("a stream ends soon after its receiver has gone",            receiver_gone),
    ("a receiver that pauses loses nothing",                      slow_receiver),
    ("a stream outlives its instance",                            outlives),
];

/// "Soon", on a machine that is busy with other things.
const SOON: Duration = Duration::from_secs(15);
/// Every request ends within this, or not at all.
const AT_ALL: Duration = Duration::from_secs(30);

/// Runs every check of streams.
///
/// # Panics
/// If any promise is broken, with all of them in the message.
pub fn check_streams(fixture: &StreamFixture<'_>) {
    let failures = stream_failures(fixture, "");
    let lines: Vec<_> = failures.iter().map(|failure| format!("\n  {failure}")).collect();
    let backend = fixture.loader.backend();
    assert!(failures.is_empty(), "{backend} does not conform:{}", lines.concat());
}

/// Runs the checks whose promise contains this text (every one, if it is empty) and returns the
/// promises that were broken.
pub fn stream_failures(fixture: &StreamFixture<'_>, promise: &str) -> Vec<Failure> {
    let checks = CHECKS.into_iter().filter(|(sentence, _)| sentence.contains(promise));
    checks.filter_map(|(promise, check)| kept(promise, || check(fixture))).collect()
}

/// What a request came to, as its receiver sees it.
#[derive(Clone, Default)]
struct Received(Arc<(Mutex<Seen>, Condvar)>);

#[derive(Default)]
struct Seen {
    answers: Vec<Vec<NamedTensor>>,
    outcome: Option<Result<(), RuntimeError>>,
    gone: bool,
    paused: bool,
}

impl Received {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.lock());
        self.0.1.notify_all();
    }

    /// Waits until this holds of what was seen.
    fn wait(&self, limit: Duration, until: impl Fn(&Seen) -> bool) -> Result<(), String> {
        let waited = self.0.1.wait_timeout_while(self.lock(), limit, |seen| !until(seen));
        let (seen, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let (answers, ended) = (seen.answers.len(), seen.outcome.is_some());
        match until(&seen) {
            true => Ok(()),
            false => Err(format!("after {limit:?}: {answers} answers, ended: {ended}")),
        }
    }

    /// Waits for the end; the answers, or why there are no more.
    fn end(&self) -> Result<Vec<Vec<NamedTensor>>, RuntimeError> {
        let never = |text: String| RuntimeError::Run(format!("no end {text}").into());
        self.wait(AT_ALL, |seen| seen.outcome.is_some()).map_err(never)?;
        let mut seen = self.lock();
        match seen.outcome.take() {
            Some(Ok(())) | None => Ok(std::mem::take(&mut seen.answers)),
            Some(Err(error)) => Err(error),
        }
    }
}

impl Sink for Received {
    fn send(&mut self, outputs: Vec<NamedTensor>) -> Result<(), RuntimeError> {
        let running = self.0.1.wait_while(self.lock(), |seen| seen.paused && !seen.gone);
        let mut seen = running.unwrap_or_else(PoisonError::into_inner);
        if seen.gone {
            return Err(RuntimeError::Cancelled);
        }
        seen.answers.push(outputs);
        drop(seen);
        self.0.1.notify_all();
        Ok(())
    }

    fn end(&mut self, outcome: Result<(), RuntimeError>) {
        self.change(|seen| seen.outcome = Some(outcome));
    }
}

fn open(fixture: &StreamFixture<'_>) -> Result<Box<dyn Instance>, String> {
    let model = fixture.loader.load(&fixture.source).map_err(|error| said("load", &error))?;
    model.open(&ONE_THREAD).map_err(|error| said("open", &error))
}

fn start(instance: &mut dyn Instance, inputs: &[NamedTensor], cancel: &Cancel) -> Received {
    start_for(instance, inputs, &[], cancel, Received::default())
}

fn start_for(
    instance: &mut dyn Instance,
    inputs: &[NamedTensor],
    outputs: &[Arc<str>],
    cancel: &Cancel,
    received: Received,
) -> Received {
    let request = StreamRequest { inputs: inputs.to_vec(), outputs: outputs.to_vec() };
    instance.stream(request, Responses::new(Box::new(received.clone()), cancel.clone()));
    received
}

fn compare(got: &[Vec<NamedTensor>], want: &[Vec<NamedTensor>]) -> Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("{} answers; expected {}", got.len(), want.len()));
    }
    for (nth, (got, want)) in got.iter().zip(want).enumerate() {
        same(got, want, 0.0).map_err(|difference| format!("answer {nth}: {difference}"))?;
    }
    Ok(())
}

fn answers_right(
    fixture: &StreamFixture<'_>,
    instance: &mut dyn Instance,
    answers: usize,
    seed: u64,
) -> Result<(), String> {
    let inputs = (fixture.request)(answers, seed);
    let received = start(instance, &inputs, &Cancel::default());
    let got = received.end().map_err(|error| said("the stream", &error))?;
    compare(&got, &(fixture.reference)(&inputs))
        .map_err(|what| format!("{answers} answers: {what}"))
}

fn right(fixture: &StreamFixture<'_>) -> Result<(), String> {
    let mut instance = open(fixture)?;
    for (answers, seed) in [0, 1, 2, 3, 7, 40].into_iter().zip(1..) {
        answers_right(fixture, &mut *instance, answers, seed)?;
    }
    Ok(())
}

fn at_once(fixture: &StreamFixture<'_>) -> Result<(), String> {
    let mut instances = [open(fixture)?, open(fixture)?];
    let cancel = Cancel::default();
    let running: Vec<_> = (0..12)
        .map(|seed| {
            let inputs = (fixture.request)(5, seed);
            (start(&mut *instances[seed as usize % 2], &inputs, &cancel), inputs)
        })
        .collect();
    for (received, inputs) in running {
        let got = received.end().map_err(|error| said("a stream", &error))?;
        compare(&got, &(fixture.reference)(&inputs))?;
    }
    Ok(())
}

fn outputs_as_asked(fixture: &StreamFixture<'_>) -> Result<(), String> {
    let mut instance = open(fixture)?;
    let inputs = (fixture.request)(2, 3);
    let all = (fixture.reference)(&inputs);
    let count = all.first().map_or(0, Vec::len);
    let mut orders: Vec<Vec<usize>> = (0..count).map(|only| vec![only]).collect();
    orders.push((0..count).rev().collect());
    for order in orders {
        let pick = |answer: &Vec<NamedTensor>| -> Vec<NamedTensor> {
            order.iter().map(|at| answer[*at].clone()).collect()
        };
        let want: Vec<_> = all.iter().map(pick).collect();
        let outputs: Vec<_> = want[0].iter().map(|output| output.name.clone()).collect();
        let cancel = Cancel::default();
        let received = start_for(&mut *instance, &inputs, &outputs, &cancel, Received::default());
        compare(&received.end().map_err(|error| said("the stream", &error))?, &want)?;
    }
    Ok(())
}

fn misfit(fixture: &StreamFixture<'_>) -> Result<(), String> {
    let mut instance = open(fixture)?;
    let good = (fixture.request)(2, 4);
    let mut twice = good.clone();
    twice.extend(good.first().cloned());
    let missing = good[1..].to_vec();
    for (what, inputs) in [("an input twice", twice), ("an input missing", missing)] {
        let received = start(&mut *instance, &inputs, &Cancel::default());
        match received.end() {
            Err(RuntimeError::Input { .. }) => {}
            Err(error) => return Err(format!("{what}: not an input error: {error}")),
            Ok(answers) => return Err(format!("{what}: {} answers", answers.len())),
        }
        answers_right(fixture, &mut *instance, 2, 5).map_err(|e| format!("after {what}: {e}"))?;
    }
    Ok(())
}

fn unknown_output(fixture: &StreamFixture<'_>) -> Result<(), String> {
    let mut instance = open(fixture)?;
    let (inputs, outputs) = ((fixture.request)(1, 1), ["no-such-output".into()]);
    let cancel = Cancel::default();
    let received = start_for(&mut *instance, &inputs, &outputs, &cancel, Received::default());
    match received.end() {
        Err(RuntimeError::Input { .. }) => answers_right(fixture, &mut *instance, 1, 2),
        Err(error) => Err(format!("not an input error: {error}")),
        Ok(_) => Err("it was answered".to_owned()),
    }
}

fn cancelled_before(fixture: &StreamFixture<'_>) -> Result<(), String> {
    let mut instance = open(fixture)?;
    let cancel = Cancel::default();
    cancel.cancel();
    let received = start(&mut *instance, &(fixture.request)(2, 1), &cancel);
    let started = Instant::now();
    ended_by_cancel(&received, started)?;
    answers_right(fixture, &mut *instance, 2, 2)
}

fn cancelled_during(fixture: &StreamFixture<'_>) -> Result<(), String> {
    let mut instance = open(fixture)?;
    // Twice: an instance that was ended once can be used, and ended, again.
    for _ in 0..2 {
        let (cancel, received) = (Cancel::default(), Received::default());
        let raised = std::thread::scope(|scope| {
            let (raise, watched) = (cancel.clone(), received.clone());
            let raised = scope.spawn(move || {
                let first = watched.wait(AT_ALL, |seen| !seen.answers.is_empty());
                raise.cancel();
                first.map(|()| Instant::now())
            });
            start_for(&mut *instance, &fixture.slow, &[], &cancel, received.clone());
            raised.join()
        });
        let raised = raised.unwrap_or_else(|_| Err("a thread panicked".to_owned()))?;
        ended_by_cancel(&received, raised)?;
        answers_right(fixture, &mut *instance, 2, 3)?;
    }
    Ok(())
}

fn ended_by_cancel(received: &Received, since: Instant) -> Result<(), String> {
    match received.end() {
        Err(RuntimeError::Cancelled) if since.elapsed() < SOON => Ok(()),
        Err(RuntimeError::Cancelled) => Err(format!("only after {:?}", since.elapsed())),
        Err(error) => Err(format!("not the error for it: {error}")),
        Ok(answers) => Err(format!("it ended as if nothing was, with {} answers", answers.len())),
    }
}

fn receiver_gone(fixture: &StreamFixture<'_>) -> Result<(), String> {
    let mut instance = open(fixture)?;
    let (received, left) = (Received::default(), AtomicBool::new(false));
    let since = std::thread::scope(|scope| {
        scope.spawn(|| {
            if received.wait(AT_ALL, |seen| !seen.answers.is_empty()).is_ok() {
                received.change(|seen| seen.gone = true);
                left.store(true, Ordering::SeqCst);
            }
        });
        let cancel = Cancel::default();
        start_for(&mut *instance, &fixture.long, &[], &cancel, received.clone());
        Instant::now()
    });
    if !left.load(Ordering::SeqCst) {
        return Err("there was no first answer".to_owned());
    }
    ended_by_cancel(&received, since)?;
    answers_right(fixture, &mut *instance, 2, 3)
}

fn slow_receiver(fixture: &StreamFixture<'_>) -> Result<(), String> {
    let mut instance = open(fixture)?;
    let inputs = (fixture.request)(9, 8);
    let received = Received::default();
    received.change(|seen| seen.paused = true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Time for an engine that does not wait to lose something.
            std::thread::sleep(Duration::from_millis(50));
            received.change(|seen| seen.paused = false);
        });
        start_for(&mut *instance, &inputs, &[], &Cancel::default(), received.clone());
    });
    let got = received.end().map_err(|error| said("the stream", &error))?;
    compare(&got, &(fixture.reference)(&inputs))
}

fn outlives(fixture: &StreamFixture<'_>) -> Result<(), String> {
    let mut instance = open(fixture)?;
    let inputs = (fixture.request)(20, 9);
    let received = Received::default();
    received.change(|seen| seen.paused = true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The instance goes while answers are still to come, unless the engine answers within
            // the call, which then has to end.
            std::thread::sleep(Duration::from_millis(50));
            received.change(|seen| seen.paused = false);
        });
        start_for(&mut *instance, &inputs, &[], &Cancel::default(), received.clone());
        drop(instance);
    });
    let got = received.end().map_err(|error| said("the stream", &error))?;
    compare(&got, &(fixture.reference)(&inputs))
}
