//! Exponential and error function, in arithmetic that compilers turn into vectors: no branch, no
//! table, no call.

/// `e^x` within 2e-7 of its size; `x` is first brought into `-87..=88`, where the result is a normal
/// number.
///
/// # Source
/// Cephes' `expf`: `2^n · e^r` with `r` within half of `ln 2`, and its polynomial for `e^r`.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// Adding it leaves a float's nearest whole number in its lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let terms = [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5];
    let poly = terms.iter().fold(1.987_569_2e-4, |sum, term| sum * r + term);
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    (poly * r * r + r + 1.0) * power
}

/// The error function, within 5e-7.
///
/// # Source
/// The rational minimax approximation that Eigen and XLA use, odd over even on ±3.83, beyond which
/// the function is 1 to within a float.
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    let x = x.clamp(-3.832_507, 3.832_507);
    let square = x * x;
    let above = [
        2.770_681_5e-8,
        -2.101_024e-6,
        -5.692_506_5e-5,
        -7.349_906_5e-4,
        -2.954_6e-3,
        -1.609_603_4e-2,
    ];
    let below = [-2.133_740_6e-4, -1.682_827e-3, -7.373_329_3e-3, -1.426_474e-2];
    let above = above.iter().fold(-2.726_142_3e-10, |sum, term| sum * square + term);
    let below = below.iter().fold(-1.456_607_2e-5, |sum, term| sum * square + term);
    x * above / below
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_within_2e_7_of_its_size() {
        let worst = (-870_000..=880_000)
            .map(|i| i as f32 / 10_000.0)
            .map(|x| (f64::from(exp(x)) / f64::from(x).exp() - 1.0).abs())
            .fold(0.0, f64::max);
        assert!(worst < 2e-7, "{worst}");
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1e30) < 1e-37 && exp(1e30).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }

    /// By its series, which needs no table.
    fn exact(x: f64) -> f64 {
        let term = |n: i32| {
            let factorial: f64 = (1..=n).map(f64::from).product();
            (-1f64).powi(n) * x.powi(2 * n + 1) / (factorial * f64::from(2 * n + 1))
        };
        (0..80).map(term).sum::<f64>() * std::f64::consts::FRAC_2_SQRT_PI
    }

    #[test]
    fn the_error_function_is_within_5e_7() {
        let worst = (-38_000..=38_000)
            .map(|i| i as f32 / 10_000.0)
            .map(|x| (f64::from(erf(x)) - exact(x.into())).abs())
            .fold(0.0, f64::max);
        assert!(worst < 5e-7, "{worst}");
        for x in [3.9, 10.0, 1e30, f32::INFINITY] {
            assert!((erf(x) - 1.0).abs() < 5e-7 && (erf(-x) + 1.0).abs() < 5e-7, "{x}");
        }
        assert!(erf(f32::NAN).is_nan());
    }
}
