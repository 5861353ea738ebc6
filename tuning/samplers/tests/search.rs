//! The samplers search: Parzen estimators beat random points by a clear margin.
//!
//! Method: the median best objective of 60 trials over fixed seeds, one trial at a time and in
//! batches of five. Over a hundred seeds the medians were 0.1 to 0.5 of random's; the margins leave
//! room for other seeds, and none for an estimator that does not learn.

mod functions;

use functions::Function;
use mizzen_samplers::{Random, Tpe};
use mizzen_tuning_api::Sampler;

fn median_best(function: &Function, sampler: &dyn Sampler, batch: usize, seeds: u64) -> f64 {
    let mut bests: Vec<f64> =
        (0..seeds).map(|seed| function.best_of(sampler, 60, batch, seed)).collect();
    bests.sort_by(f64::total_cmp);
    bests[bests.len() / 2]
}

/// `share` of random's median is for `tpe`, the second for `multivariate-tpe`.
fn beats_random(function: &Function, share: f64, multivariate_share: f64) {
    let random = median_best(function, &Random::default(), 1, 201);
    for (multivariate, share) in [(false, share), (true, multivariate_share)] {
        let sampler = Tpe { multivariate, ..Tpe::default() };
        for batch in [1, 5] {
            let found = median_best(function, &sampler, batch, 15);
            assert!(
                found <= share * random,
                "multivariate {multivariate}, batches of {batch}: {found} is more than {share} of \
                 random's {random}"
            );
        }
    }
}

#[test]
fn parzen_estimators_find_the_bottom_of_a_bowl() {
    beats_random(&functions::sphere(), 0.5, 0.2);
}

#[test]
fn parzen_estimators_find_one_of_three_minima() {
    beats_random(&functions::branin(), 0.6, 0.6);
}

#[test]
fn parzen_estimators_search_every_kind_of_parameter() {
    beats_random(&functions::mixed(), 0.7, 0.6);
}

#[test]
fn parzen_estimators_search_categories_alone() {
    beats_random(&functions::words(), 0.6, 0.6);
}
