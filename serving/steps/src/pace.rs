//! What steps cost, as seen.

use std::time::Duration;

/// How much of what was seen before is left after each step that is seen.
const MEMORY: f64 = 0.98;

/// Seconds of a step as a line over its tokens, fitted to those seen lately (least squares with
/// exponential forgetting). A step costs the reading of the weights, whatever is in it, and the
/// arithmetic of each token.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pace {
    n: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

impl Pace {
    /// A step of so many tokens took so long.
    pub(crate) fn saw(&mut self, tokens: usize, took: Duration) {
        let (x, y) = (tokens as f64, took.as_secs_f64());
        for (sum, value) in [
            (&mut self.n, 1.0),
            (&mut self.x, x),
            (&mut self.y, y),
            (&mut self.xx, x * x),
            (&mut self.xy, x * y),
        ] {
            *sum = *sum * MEMORY + value;
        }
    }

    /// Seconds of a step with no tokens, and of each token; both at least 0. As long as all steps
    /// seen were of one size, all of their time is laid on their tokens.
    fn line(&self) -> Option<(f64, f64)> {
        if self.x <= 0.0 || self.y <= 0.0 {
            return None;
        }
        let (mean_x, mean_y) = (self.x / self.n, self.y / self.n);
        let variance = self.xx / self.n - mean_x * mean_x;
        let slope = if variance > 1e-9 * mean_x * mean_x {
            (self.xy / self.n - mean_x * mean_y) / variance
        } else {
            mean_y / mean_x
        };
        // Neither may be below 0: a line through the origin, or a flat one, is the nearest.
        let slope = slope.clamp(0.0, mean_y / mean_x);
        Some((mean_y - slope * mean_x, slope))
    }

    /// Tokens that may go into a step beside `first` so that it takes at most `stretch` times as
    /// long as with those alone; `None` if nothing was seen yet.
    pub(crate) fn beside(&self, first: usize, stretch: f64) -> Option<usize> {
        let (base, slope) = self.line()?;
        let alone = base + slope * first as f64;
        Some(((stretch - 1.0) * alone / slope) as usize) // as many as there are, if they cost nothing
    }

    /// Tokens of a step that takes at most so long; `None` if nothing was seen yet.
    pub(crate) fn within(&self, time: Duration) -> Option<usize> {
        let (base, slope) = self.line()?;
        Some(((time.as_secs_f64() - base).max(0.0) / slope) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(steps: &[(usize, u64)]) -> Pace {
        let mut pace = Pace::default();
        for (tokens, millis) in steps.iter().cycle().take(200) {
            pace.saw(*tokens, Duration::from_millis(*millis));
        }
        pace
    }

    #[test]
    fn a_line_is_found_and_followed() {
        let mut pace = seen(&[(1, 11), (20, 30), (8, 18)]); // 10 ms and 1 ms a token
        assert!(matches!(pace.beside(10, 2.0), Some(19..=20))); // 20 ms more, up to rounding
        assert!(matches!(pace.within(Duration::from_millis(110)), Some(99..=100)));
        for _ in 0..500 {
            pace.saw(1, Duration::from_millis(30));
            pace.saw(21, Duration::from_millis(70)); // the machine became slower
        }
        assert!(matches!(pace.within(Duration::from_millis(128)), Some(49..=50)));
    }

    #[test]
    fn odd_figures_give_no_odd_plans() {
        assert_eq!(Pace::default().beside(3, 2.0), None);
        assert_eq!(Pace::default().within(Duration::from_secs(1)), None);
        assert_eq!(seen(&[(4, 0)]).within(Duration::from_secs(1)), None);
        assert_eq!(seen(&[(4, 8)]).beside(4, 2.0), Some(4)); // one size: all is laid on the tokens
        assert!(seen(&[(1, 20), (30, 10)]).beside(1, 2.0) > Some(1 << 40)); // larger is cheaper
        assert_eq!(seen(&[(1, 10), (30, 1000)]).beside(1, 2.0), Some(1)); // no negative base
        assert_eq!(seen(&[(1, 11), (20, 30)]).within(Duration::from_millis(1)), Some(0));
    }
}
