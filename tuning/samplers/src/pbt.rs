//! `pbt`: a population whose worse members go on from the better ones, with changed parameters.

use crate::cube::{Cube, Kind};
use crate::draw::Draw;
use crate::random::random_state;
use crate::seen::{Seen, has_failed};
use mizzen_tuning_api::{
    Assignments, Lineage, Sampler, SamplerError, SettingError, Settings, SuggestRequest, Trial,
};

/// Population based training.
///
/// Jaderberg et al., *Population Based Training of Neural Networks*, 2017, with Katib's settings. The
/// trials in the order of creation are the population, generation after generation; a trial goes on
/// from the checkpoint of its parent, which [`Sampler::lineage`] names: its predecessor in the
/// population or, if that is among the worst, one of the best. What goes on from one of the best is
/// changed: numbers by a fifth up or down, categories to another, or drawn anew.
///
/// Unlike Katib's: numbers are changed on their own scale within their bounds, without asking for a
/// step; a member goes on as soon as its predecessor has ended, ranked among those that have; a failed
/// trial counts among the worst rather than being tried again.
#[derive(Debug, Clone, PartialEq)]
pub struct Pbt {
    /// The seed, if the experiment's own is not to be used.
    pub random_state: Option<u64>,
    /// Where trials find their parents' checkpoints and leave their own.
    pub suggestion_trial_dir: String,
    /// The size of the population.
    pub n_population: usize,
    /// The share that counts as the worst, and as the best.
    pub truncation_threshold: f64,
    /// The probability that a parameter is drawn anew rather than changed.
    pub resample_probability: Option<f64>,
}

/// Where a member of the population comes from.
struct Origin<'a> {
    /// The trial that it goes on from; none in the first generation.
    parent: Option<(usize, &'a Assignments)>,
    /// Whether it is changed.
    changed: bool,
}

impl Pbt {
    /// Katib's settings: `suggestion_trial_dir`, `n_population` (from 5), `truncation_threshold` (0 to
    /// 1), all required, and `resample_probability` (0 to 1); and `random_state`.
    ///
    /// # Errors
    /// [`SettingError`] if a required setting is missing, there is another, or one is out of its range.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingError> {
        let keys = [
            "n_population",
            "random_state",
            "resample_probability",
            "suggestion_trial_dir",
            "truncation_threshold",
        ];
        settings.expect_only("pbt", &keys)?;
        let directory = settings.require("suggestion_trial_dir", "a path that is not empty")?;
        let (count, share) = ("an integer from 5 to 100000", "a number from 0 to 1");
        settings.require("n_population", count)?;
        settings.require("truncation_threshold", share)?;
        let unit = |v: &f64| (0.0..=1.0).contains(v);
        let population = settings.read("n_population", count, |n| (5..=100_000).contains(n))?;
        Ok(Self {
            random_state: random_state(settings)?,
            suggestion_trial_dir: directory.to_owned(),
            n_population: population.unwrap_or(5),
            truncation_threshold: settings
                .read("truncation_threshold", share, unit)?
                .unwrap_or(0.0),
            resample_probability: settings.read("resample_probability", share, unit)?,
        })
    }

    /// The origin of the `n`th trial; `None` while its predecessor runs.
    fn origin<'s>(
        &self,
        n: usize,
        trials: &[(&'s Assignments, Option<&'s Trial>)],
        request: &SuggestRequest<'_>,
        draw: &mut Draw,
    ) -> Option<Origin<'s>> {
        let Some(before) = n.checked_sub(self.n_population) else {
            return Some(Origin { parent: None, changed: false });
        };
        // `None` while it runs; a failure's loss is infinite.
        let loss = |i: usize| {
            let trial = trials.get(i)?.1?;
            if has_failed(trial) {
                return Some(f64::INFINITY);
            }
            trial.objective().map(|o| request.objective.loss(o))
        };
        let own = loss(before)?;
        let first = before / self.n_population * self.n_population;
        let mut ended: Vec<(f64, usize)> = (first..first + self.n_population)
            .filter_map(|i| loss(i).map(|loss| (loss, i)))
            .collect();
        ended.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let few = (self.truncation_threshold * ended.len() as f64).ceil() as usize;
        let few = few.min(ended.len() / 2);
        let is_worst = ended[ended.len() - few..].iter().any(|(_, i)| *i == before);
        let best: Vec<usize> = ended[..few.max(1)]
            .iter()
            .filter(|(loss, _)| loss.is_finite())
            .map(|(_, i)| *i)
            .collect();
        if !is_worst && own.is_finite() {
            return Some(Origin { parent: Some((before, trials[before].0)), changed: false });
        }
        if best.is_empty() {
            // Nobody succeeded: begin again.
            return Some(Origin { parent: None, changed: false });
        }
        let parent = best[draw.below(best.len() as u64) as usize];
        Some(Origin { parent: Some((parent, trials[parent].0)), changed: true })
    }

    fn point(
        &self,
        origin: &Origin<'_>,
        cube: &Cube<'_>,
        seen: &Seen<'_>,
        draw: &mut Draw,
    ) -> Assignments {
        let place = origin.parent.and_then(|(_, p)| cube.place(p));
        match place {
            None => seen.fresh(draw),
            Some(place) if !origin.changed => cube.point(&place),
            Some(place) => {
                // A few tries to be unlike the others, which a small space may not allow.
                let mut points = (0..16).map(|_| cube.point(&self.changed(&place, cube, draw)));
                let other = points.find(|point| !seen.contains(point));
                other.unwrap_or_else(|| cube.point(&self.changed(&place, cube, draw)))
            }
        }
    }

    /// A fifth up or down, on the scale of each parameter, or anew.
    fn changed(&self, place: &[f64], cube: &Cube<'_>, draw: &mut Draw) -> Vec<f64> {
        let anew = cube.by_distribution(|_| draw.uniform());
        let mut changed = place.to_vec();
        for (i, axis) in cube.axes.iter().enumerate() {
            let resampled = draw.uniform() < self.resample_probability.unwrap_or(0.0);
            let up = draw.uniform() < 0.5;
            changed[i] = match axis.kind {
                _ if resampled => anew[i],
                Kind::Category(count) => {
                    // Another one, each alike.
                    let step = 1 + draw.below(count - 1);
                    ((place[i] as u64 + step) % count) as f64
                }
                _ => {
                    let least = axis.cell_width(place[i]);
                    let by = (0.2 * place[i]).max(least).max(0.02);
                    let moved = if up { place[i] + by } else { place[i] - by };
                    axis.snapped(moved.clamp(0.0, 1.0))
                }
            };
        }
        changed
    }

    /// The suggestions with where they come from.
    fn members(&self, request: SuggestRequest<'_>) -> Vec<(Assignments, Lineage)> {
        let seed = self.random_state.unwrap_or(request.seed);
        let cube = Cube::new(request.space);
        let mut seen = Seen::new(request);
        let mut lineages = Vec::new();
        for _ in 0..request.count {
            let n = seen.len();
            let draw = &mut Draw::new(seed, n);
            let (point, lineage) = {
                let trials: Vec<_> = seen.trials().collect();
                let Some(origin) = self.origin(n, &trials, &request, draw) else { break };
                let parent = origin.parent.map(|(i, _)| i);
                let lineage = Lineage { generation: n / self.n_population, parent };
                (self.point(&origin, &cube, &seen, draw), lineage)
            };
            seen.push(point);
            lineages.push(lineage);
        }
        seen.into_answer().into_iter().zip(lineages).collect()
    }
}

impl Sampler for Pbt {
    fn suggest(&self, request: SuggestRequest<'_>) -> Result<Vec<Assignments>, SamplerError> {
        Ok(self.members(request).into_iter().map(|(point, _)| point).collect())
    }

    fn lineage(&self, request: SuggestRequest<'_>) -> Vec<Lineage> {
        self.members(request).into_iter().map(|(_, lineage)| lineage).collect()
    }
}
