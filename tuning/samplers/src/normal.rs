//! Mass of the standard normal distribution.

use std::f64::consts::FRAC_1_SQRT_2;

/// The logarithm stands for "none" below the smallest double; a mixture's prior outweighs it.
const LOG_NOTHING: f64 = -700.0;

/// ln √(2π)
const LOG_ROOT_TWO_PI: f64 = 0.918_938_533_204_672_8;

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

/// Natural logarithm of the standard normal density.
pub(crate) fn log_density(x: f64) -> f64 {
    -0.5 * x * x - LOG_ROOT_TWO_PI
}

/// Mass below `x`.
pub(crate) fn mass_below(x: f64) -> f64 {
    upper_tail(-x)
}

/// The number with this mass below it, `mass` above 0 and below 1.
///
/// Acklam's rational approximation (2003, relative error 1e-9), and one step of Halley's method.
pub(crate) fn quantile(mass: f64) -> f64 {
    const A: [f64; 6] = [
        -3.969683028665376e+01,
        2.209460984245205e+02,
        -2.759285104469687e+02,
        1.38357751867269e+02,
        -3.066479806614716e+01,
        2.506628277459239,
    ];
    const B: [f64; 5] = [
        -5.447609879822406e+01,
        1.615858368580409e+02,
        -1.556989798598866e+02,
        6.680131188771972e+01,
        -1.328068155288572e+01,
    ];
    const C: [f64; 6] = [
        -7.784894002430293e-03,
        -3.223964580411365e-01,
        -2.400758277161838,
        -2.549732539343734,
        4.374664141464968,
        2.938163982698783,
    ];
    const D: [f64; 4] =
        [7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996, 3.754408661907416];
    let polynomial = |terms: &[f64], x: f64| terms.iter().fold(0.0, |sum, term| sum * x + term);
    let tail = |mass: f64| {
        let q = (-2.0 * mass.ln()).sqrt();
        polynomial(&C, q) / (polynomial(&D, q) * q + 1.0)
    };
    let x = if mass < 0.02425 {
        tail(mass)
    } else if mass > 1.0 - 0.02425 {
        -tail(1.0 - mass)
    } else {
        let (q, r) = (mass - 0.5, (mass - 0.5) * (mass - 0.5));
        q * polynomial(&A, r) / (polynomial(&B, r) * r + 1.0)
    };
    let error = (mass_below(x) - mass) * (log_density(x)).exp().recip();
    x - error / (1.0 + 0.5 * x * error)
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

    #[test]
    fn a_quantile_has_its_mass_below() {
        for mass in [1e-12, 1e-3, 0.02, 0.024_25, 0.3, 0.5, 0.9, 0.99, 1.0 - 1e-9] {
            let back = mass_below(quantile(mass));
            assert!((back / mass - 1.0).abs() < 1e-9, "{back} for {mass}");
        }
    }
}
