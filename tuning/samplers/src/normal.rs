//! Mass of the standard normal distribution.

use std::f64::consts::FRAC_1_SQRT_2;

/// The logarithm stands for "none" below the smallest double; a mixture's prior outweighs it.
const LOG_NOTHING: f64 = -700.0;

/// Natural logarithm of the mass between `low` and `high`, in standard deviations.
pub(crate) fn log_mass(low: f64, high: f64) -> f64 {
    // Beyond nine deviations is less than 1e-18 of the mass.
    if low > 9.0 || high < -9.0 {
        return LOG_NOTHING;
    }
    if low < -9.0 && high > 9.0 {
        return 0.0;
    }
    mass(low, high).ln().max(LOG_NOTHING)
}

fn mass(low: f64, high: f64) -> f64 {
    // A difference of tails keeps its digits only on the side where the tails are small.
    if low > 0.0 {
        upper_tail(low) - upper_tail(high)
    } else if high < 0.0 {
        upper_tail(-high) - upper_tail(-low)
    } else {
        1.0 - upper_tail(-low) - upper_tail(high)
    }
}

fn upper_tail(x: f64) -> f64 {
    0.5 * libm::erfc(x * FRAC_1_SQRT_2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mass_agrees_with_the_tables() {
        #[rustfmt::skip]
        let cases = [
            // what the case shows          low     high    mass
            ("one deviation",               -1.0,   1.0,    0.682_689_492_137_085_9),
            ("the right half",              0.0,    20.0,   0.5),
            ("far right keeps its digits",  6.0,    7.0,    9.853_078_324_938_078e-10),
            ("far left is the mirror",      -7.0,   -6.0,   9.853_078_324_938_078e-10),
            ("everything",                  -30.0,  30.0,   1.0),
        ];
        for (shows, low, high, want) in cases {
            let got = log_mass(low, high).exp();
            assert!((got / want - 1.0).abs() < 1e-9, "{shows}: {got} for {want}");
        }
        assert_eq!(log_mass(50.0, 60.0), LOG_NOTHING);
    }
}
