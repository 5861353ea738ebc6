//! The suite itself: each promise, when broken on purpose, is reported.

use mizzen_tuning_api::conformance::{self, Claims};
use mizzen_tuning_api::{Assignments, Sampler, SamplerError, SuggestRequest, UnitScale};
use std::sync::atomic::{AtomicU64, Ordering};

/// How a sampler goes wrong.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    IgnoresSeed,
    IgnoresRunning,
    RepeatsItself,
    CountsCalls,
    ChokesOnFailure,
    PrefersLarge,
    SuggestsTooMany,
}

/// Draws by hashing the seed and the number of trials, and drops what was tried before.
struct Scattered {
    fault: Fault,
    calls: AtomicU64,
}

impl Scattered {
    fn draw(&self, request: &SuggestRequest<'_>, salt: u64) -> Assignments {
        let mut state = salt.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x5555;
        let mut unit = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let _warm_up = [unit(), unit(), unit()];
        let values = request.space.domains().map(|d| UnitScale::new(d).value(unit())).collect();
        request.space.assign(values).expect("places are values")
    }
}

impl Sampler for Scattered {
    fn suggest(&self, request: SuggestRequest<'_>) -> Result<Vec<Assignments>, SamplerError> {
        let trials = &request.history.trials;
        if self.fault == Fault::ChokesOnFailure
            && trials.iter().any(|t| !t.is_running() && t.objective().is_none())
        {
            return Err(SamplerError::Exhausted { algorithm: "scattered", points: 0 });
        }
        let mut salt = 1 + trials.len() as u64 * 1000;
        if self.fault != Fault::IgnoresSeed {
            salt += request.seed.wrapping_mul(0x1234_5677);
        }
        if self.fault == Fault::CountsCalls {
            salt += self.calls.fetch_add(1, Ordering::Relaxed) * 77;
        }
        if self.fault == Fault::PrefersLarge {
            let best = trials.iter().filter_map(|t| t.objective()).fold(0.0, f64::max);
            salt += best.to_bits();
        }
        let mut points: Vec<Assignments> = Vec::new();
        let wanted = request.count + usize::from(self.fault == Fault::SuggestsTooMany);
        for _ in 0..20_000 {
            if points.len() == wanted {
                break;
            }
            salt += u64::from(self.fault != Fault::RepeatsItself);
            let point = self.draw(&request, salt);
            let seen = |t: &&mizzen_tuning_api::Trial| {
                t.assignments == point && (self.fault != Fault::IgnoresRunning || !t.is_running())
            };
            let repeats = points.contains(&point) && self.fault != Fault::RepeatsItself;
            if repeats || trials.iter().find(seen).is_some() && self.fault != Fault::RepeatsItself {
                continue;
            }
            points.push(point);
        }
        while points.len() < request.count {
            points.push(self.draw(&request, salt)); // everything was tried: start over
        }
        Ok(points)
    }
}

#[test]
fn a_broken_promise_is_reported_and_a_kept_one_is_not() {
    use Fault::*;
    #[rustfmt::skip]
    let cases: &[(Fault, &[&str])] = &[
        (None,            &[]),
        (IgnoresSeed,     &["another seed gives another answer"]),
        (IgnoresRunning,  &["a running point is not suggested again"]),
        (RepeatsItself,   &["suggestions of one answer are distinct", "a finite space is covered"]),
        (CountsCalls,     &["the answer depends on the request alone"]),
        (ChokesOnFailure, &["suggestions lie in the space", "failed trials are tolerated"]),
        (PrefersLarge,    &["maximising is minimising the negation"]),
        (SuggestsTooMany, &["suggestions lie in the space"]),
    ];
    for (i, (fault, want)) in cases.iter().enumerate() {
        let fault = *fault;
        let make =
            move || Box::new(Scattered { fault, calls: AtomicU64::new(0) }) as Box<dyn Sampler>;
        let broken = conformance::check(make, Claims::MODEL).err();
        let promises: Vec<_> = broken.iter().flat_map(|b| &b.promises).map(|p| p.0).collect();
        for promise in *want {
            assert!(promises.contains(promise), "case {i}: {promise} is not among {promises:?}");
        }
        assert_eq!(want.is_empty(), promises.is_empty(), "case {i}: {broken:?}");
    }
}
