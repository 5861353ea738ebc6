//! Least squares by Householder's reflections, which keep the digits that normal equations lose.

use crate::linear::dot;

/// The `x` of least `|A x − b|`, where `A` is rows of `columns` numbers and has at least as many rows
/// as columns; `None` if its columns are not independent.
pub(crate) fn solve(rows: Vec<f64>, columns: usize, mut b: Vec<f64>) -> Option<Vec<f64>> {
    let m = b.len();
    // Columns one after the other, so that reflections run along them.
    let mut a: Vec<Vec<f64>> =
        (0..columns).map(|j| (0..m).map(|i| rows[i * columns + j]).collect()).collect();
    let mut diagonal = vec![0.0; columns];
    for j in 0..columns {
        let (head, tail) = a.split_at_mut(j + 1);
        let v = &mut head[j][j..];
        let length = dot(v, v).sqrt();
        if !(length > 0.0 && length.is_finite()) {
            return None;
        }
        diagonal[j] = if v[0] > 0.0 { -length } else { length };
        v[0] -= diagonal[j];
        let square = dot(v, v);
        let reflect = |x: &mut [f64]| {
            let share = 2.0 * dot(v, x) / square;
            x.iter_mut().zip(v.iter()).for_each(|(x, v)| *x -= share * v);
        };
        tail.iter_mut().for_each(|column| reflect(&mut column[j..]));
        reflect(&mut b[j..]);
    }
    let mut x = vec![0.0; columns];
    for j in (0..columns).rev() {
        let rest: f64 = (j + 1..columns).map(|k| a[k][j] * x[k]).sum();
        x[j] = (b[j] - rest) / diagonal[j];
    }
    x.iter().all(|x| x.is_finite()).then_some(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_through_noisy_points_is_the_textbooks() {
        // y = 1 + 2 x with residuals 1, -1, -1, 1 at -3, -1, 1, 3, which neither column explains.
        let rows = vec![1.0, -3.0, 1.0, -1.0, 1.0, 1.0, 1.0, 3.0];
        let x = solve(rows, 2, vec![-4.0, -2.0, 2.0, 8.0]).unwrap();
        assert!((x[0] - 1.0).abs() < 1e-12 && (x[1] - 2.0).abs() < 1e-12, "{x:?}");
        assert_eq!(solve(vec![0.0, 0.0], 1, vec![1.0, 2.0]), None, "nothing to fit");
    }
}
