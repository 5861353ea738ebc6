use proptest::prelude::*;

use super::*;

fn picker(sampling: Sampling) -> Picker {
    Picker::new(sampling, None, 0, &[])
}

/// How often each token comes in so many draws from one row.
fn counts(sampling: Sampling, row: &[f32], draws: usize) -> Vec<usize> {
    let mut picker = picker(sampling);
    let mut counts = vec![0; row.len()];
    for _ in 0..draws {
        counts[picker.pick(&mut row.to_vec(), None, &[]).unwrap().token as usize] += 1;
    }
    counts
}

fn softmax(row: &[f32], temperature: f32) -> Vec<f64> {
    let highest = row.iter().copied().fold(f32::MIN, f32::max);
    let exp = |x: &f32| f64::from((x - highest) / temperature).exp();
    let sum: f64 = row.iter().map(exp).sum();
    row.iter().map(|x| exp(x) / sum).collect()
}

/// The likeliest until their mass is reached, made to sum to 1 again: the definition, with sorting.
fn nucleus(mut p: Vec<f64>, top_k: usize, top_p: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*b].total_cmp(&p[*a]).then(a.cmp(b)));
    let kept = if top_k == 0 { order.len() } else { top_k.min(order.len()) };
    order[kept..].iter().for_each(|at| p[*at] = 0.0);
    let total: f64 = p.iter().sum();
    let mut mass = 0.0;
    for at in &order[..kept] {
        if mass > 0.0 && mass >= top_p * total {
            p[*at] = 0.0;
        }
        mass += p[*at];
    }
    let total: f64 = p.iter().sum();
    p.iter().map(|x| x / total).collect()
}

/// Whether draws follow a distribution: χ² below the value that chance exceeds once in a million
/// times (Wilson and Hilferty's approximation, z = 4.75).
fn fits(counts: &[usize], p: &[f64]) -> Result<(), String> {
    let draws: f64 = counts.iter().sum::<usize>() as f64;
    let (mut statistic, mut cells) = (0.0, 0.0);
    let (mut rest_want, mut rest_got) = (0.0, 0.0);
    for (count, p) in counts.iter().zip(p) {
        let want = p * draws;
        if *p == 0.0 && *count > 0 {
            return Err(format!("{count} draws of what cannot be drawn"));
        }
        if want < 5.0 {
            (rest_want, rest_got) = (rest_want + want, rest_got + *count as f64);
            continue;
        }
        statistic += (*count as f64 - want).powi(2) / want;
        cells += 1.0;
    }
    if rest_want > 5.0 {
        statistic += (rest_got - rest_want).powi(2) / rest_want;
        cells += 1.0;
    }
    let k: f64 = f64::max(cells - 1.0, 1.0);
    let bound = k * (1.0 - 2.0 / (9.0 * k) + 4.75 * (2.0 / (9.0 * k)).sqrt()).powi(3);
    if statistic < bound { Ok(()) } else { Err(format!("χ² {statistic:.1} of {k}, {bound:.1}")) }
}

/// Logits as language models have them: a few high, a long tail.
fn row(width: usize) -> Vec<f32> {
    (0..width).map(|i| ((i * 7919 % width) as f32).ln_1p() * -1.3 + (i % 5) as f32 * 0.2).collect()
}

#[test]
fn draws_follow_the_distribution_that_was_asked_for() {
    let all = Sampling { seed: 7, ..Sampling::default() };
    #[rustfmt::skip]
    let cases = [
        ("the whole of it",        all.clone()),
        ("flatter",                Sampling { temperature: 2.0, ..all.clone() }),
        ("steeper",                Sampling { temperature: 0.5, ..all.clone() }),
        ("a nucleus",              Sampling { top_p: 0.8, ..all.clone() }),
        ("nearly all of it",       Sampling { top_p: 0.999, temperature: 1.7, ..all.clone() }),
        ("the likeliest few",      Sampling { top_k: 5, ..all.clone() }),
        ("more than there are",    Sampling { top_k: 5000, ..all.clone() }),
        ("a nucleus of a few",     Sampling { top_k: 20, top_p: 0.7, ..all.clone() }),
        ("none but one",           Sampling { top_p: 0.0, ..all.clone() }),
    ];
    for (shows, sampling) in cases {
        let row = row(300);
        let p = softmax(&row, sampling.temperature);
        let want = nucleus(p, sampling.top_k, sampling.top_p.into());
        fits(&counts(sampling, &row, 20_000), &want).unwrap_or_else(|e| panic!("{shows}: {e}"));
    }
}

#[test]
fn min_p_keeps_what_is_likely_enough_beside_the_likeliest() {
    let row = row(300);
    let p = softmax(&row, 1.0);
    let most = p.iter().copied().fold(0.0, f64::max);
    let kept: Vec<f64> = p.iter().map(|x| if *x >= 0.1 * most { *x } else { 0.0 }).collect();
    let total: f64 = kept.iter().sum();
    let want: Vec<f64> = kept.iter().map(|x| x / total).collect();
    for top_p in [1.0, 0.9999] {
        let sampling = Sampling { min_p: 0.1, top_p, seed: 3, ..Sampling::default() };
        fits(&counts(sampling, &row, 20_000), &want).unwrap();
    }
}

#[test]
fn the_same_seed_draws_the_same_and_choices_differ() {
    let draw = |seed, choice| {
        let mut picker = Picker::new(Sampling { seed, ..Sampling::default() }, None, choice, &[]);
        (0..50).map(|_| picker.pick(&mut row(200), None, &[]).unwrap().token).collect::<Vec<_>>()
    };
    assert_eq!(draw(1, 0), draw(1, 0));
    assert_ne!(draw(1, 0), draw(1, 1));
    assert_ne!(draw(1, 0), draw(2, 0));
}

#[test]
fn penalties_and_biases_are_vllms() {
    let pick = |sampling: Sampling, prompt: &[u32], written: &[u32]| {
        let sampling = Sampling { temperature: 0.0, ..sampling };
        let mut picker = Picker::new(sampling, None, 0, prompt);
        written.iter().for_each(|token| picker.note(*token));
        let mut row = vec![2.0, 1.9, -1.0, 0.5];
        (picker.pick(&mut row, None, &[]).unwrap().token, row)
    };
    let none = Sampling::default();
    assert_eq!(pick(none.clone(), &[], &[]).0, 0);
    let frequency = Sampling { frequency_penalty: 0.5, ..none.clone() };
    assert_eq!(
        pick(frequency, &[0], &[0, 0]).1,
        [1.0, 1.9, -1.0, 0.5],
        "the prompt is not counted"
    );
    let presence = Sampling { presence_penalty: 0.5, ..none.clone() };
    assert_eq!(pick(presence, &[1], &[0, 0]).1, [1.5, 1.9, -1.0, 0.5]);
    let repetition = Sampling { repetition_penalty: 2.0, ..none.clone() };
    assert_eq!(pick(repetition, &[1, 2], &[0, 1]).1, [1.0, 0.95, -2.0, 0.5]);
    let bias = Sampling { logit_bias: [(3, 100.0), (0, -100.0)].into(), ..none.clone() };
    assert_eq!(pick(bias, &[], &[]).0, 3);
    let allowed = Sampling { allowed: Some(vec![2, 3]), ..none };
    assert_eq!(pick(allowed, &[], &[]).0, 3);
}

#[test]
fn what_is_masked_or_banned_is_never_picked() {
    for temperature in [0.0, 1.0] {
        let mut picker = picker(Sampling { temperature, ..Sampling::default() });
        let mask = mask_of(&[3, 40, 63]);
        for _ in 0..100 {
            let got = picker.pick(&mut row(64), Some(&mask), &[40]).unwrap().token;
            assert!([3, 63].contains(&got), "{got}");
        }
        let none = picker.pick(&mut row(64), Some(&[0, 0]), &[]);
        assert_eq!(none, Err(GenerateError::NothingAllowed));
        let none = picker.pick(&mut row(64), Some(&mask_of(&[40])), &[40]);
        assert_eq!(none, Err(GenerateError::NothingAllowed));
    }
}

#[test]
fn logprobs_are_of_the_models_own_distribution() {
    let sampling =
        Sampling { temperature: 0.0, logit_bias: [(9, 100.0)].into(), ..Sampling::default() };
    let mut picker = Picker::new(sampling, Some(3), 0, &[]);
    let row = row(100);
    let p = softmax(&row, 1.0);
    let picked = picker.pick(&mut row.clone(), None, &[]).unwrap();
    assert_eq!(picked.token, 9);
    assert!((f64::from(picked.logprob.unwrap()) - p[9].ln()).abs() < 1e-4);
    let mut order: Vec<u32> = (0..100).collect();
    order.sort_by(|a, b| p[*b as usize].total_cmp(&p[*a as usize]).then(a.cmp(b)));
    let top: Vec<u32> = picked.top.iter().map(|scored| scored.token).collect();
    assert_eq!(top, order[..3]);
    for scored in picked.top {
        assert!((f64::from(scored.logprob) - p[scored.token as usize].ln()).abs() < 1e-4);
    }
}

#[test]
fn numbers_that_are_none_are_errors() {
    for bad in [f32::NAN, f32::INFINITY] {
        for at in [0, 17, 99] {
            for temperature in [0.0, 1.0] {
                let mut row = row(100);
                row[at] = bad;
                let mut picker = picker(Sampling { temperature, ..Sampling::default() });
                let got = picker.pick(&mut row, None, &[]).unwrap_err();
                assert_eq!(got, GenerateError::Logit { token: at, got: bad.to_string() });
            }
        }
    }
    let mut row = vec![f32::NEG_INFINITY; 20];
    let got = picker(Sampling::default()).pick(&mut row, None, &[]);
    assert_eq!(got, Err(GenerateError::NothingAllowed));
}

#[test]
fn options_out_of_range_are_named() {
    let none = Sampling::default();
    #[rustfmt::skip]
    let cases = [
        ("temperature",       Sampling { temperature: -1.0, ..none.clone() }),
        ("temperature",       Sampling { temperature: f32::NAN, ..none.clone() }),
        ("top_p",             Sampling { top_p: 1.5, ..none.clone() }),
        ("min_p",             Sampling { min_p: -0.5, ..none.clone() }),
        ("presence_penalty",  Sampling { presence_penalty: 3.0, ..none.clone() }),
        ("frequency_penalty", Sampling { frequency_penalty: -3.0, ..none.clone() }),
        ("repetition_penalty",Sampling { repetition_penalty: 0.0, ..none.clone() }),
        ("logit_bias",        Sampling { logit_bias: [(100, 1.0)].into(), ..none.clone() }),
        ("logit_bias",        Sampling { logit_bias: [(1, 101.0)].into(), ..none.clone() }),
        ("allowed_token_ids", Sampling { allowed: Some(vec![]), ..none.clone() }),
    ];
    for (field, sampling) in cases {
        assert_eq!(sampling.check(100).unwrap_err().at(), Some(field));
    }
    assert_eq!(none.check(100), Ok(()));
}

proptest! {
    #[test]
    fn the_likeliest_is_what_zero_temperature_and_the_narrowest_nucleus_pick(
        row in prop::collection::vec(-20.0f32..20.0, 1..200),
    ) {
        let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
        let want = row.iter().position(|x| row.iter().all(|y| y <= x)).unwrap() as u32;
        for sampling in [
            greedy,
            Sampling { top_k: 1, ..Sampling::default() },
            Sampling { top_p: 0.0, ..Sampling::default() },
        ] {
            prop_assert_eq!(picker(sampling).pick(&mut row.clone(), None, &[]).unwrap().token, want);
        }
    }

    #[test]
    fn what_is_drawn_is_in_the_nucleus(
        row in prop::collection::vec(-30.0f32..30.0, 1..200),
        top_p in 0.0f32..1.0,
        top_k in 0usize..50,
        temperature in 0.1f32..3.0,
        seed: u64,
    ) {
        // A little wider than asked for: sums of rounded numbers differ in their last digits.
        let want = nucleus(softmax(&row, temperature), top_k, f64::from(top_p) + 1e-6);
        let mut picker = picker(Sampling { top_p, top_k, temperature, seed, ..Sampling::default() });
        for _ in 0..20 {
            let got = picker.pick(&mut row.clone(), None, &[]).unwrap().token;
            prop_assert!(want[got as usize] > 0.0, "{}", got);
        }
    }

    #[test]
    fn a_mask_and_its_tokens_are_the_same(tokens in prop::collection::btree_set(0u32..500, 1..50)) {
        let mask = mask_of(&tokens.iter().copied().collect::<Vec<_>>());
        let mut got = Vec::new();
        allowed(&[0.0; 500], Some(&mask), |token, _| got.push(token));
        prop_assert_eq!(got, tokens.into_iter().collect::<Vec<_>>());
    }
}
