//! The little linear algebra that models need: dot products, Cholesky's factor, triangular solves.
//!
//! Matrices are rows one after the other in one slice. The sums are made in a fixed order, so that
//! results are the same on every machine.

/// The sum of products of two slices of one length.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    // Eight sums at once, which the compiler puts into vector registers.
    let mut sums = [0.0; 8];
    let (chunks_a, chunks_b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = chunks_a.remainder().iter().zip(chunks_b.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in chunks_a.zip(chunks_b) {
        for i in 0..8 {
            sums[i] += x[i] * y[i];
        }
    }
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + b) + (c + d)) + ((e + f) + (g + h)) + rest
}

/// The lower triangular `L` of a positive definite matrix `A = L Lᵀ`.
#[derive(Debug, Clone)]
pub(crate) struct Cholesky {
    n: usize,
    /// Rows of `stride` numbers; above the diagonal is rubbish.
    rows: Vec<f64>,
    stride: usize,
}

impl Cholesky {
    /// Factors the lower triangle of a matrix of `n` rows; `None` if it is not positive definite.
    pub(crate) fn new(mut rows: Vec<f64>, n: usize) -> Option<Self> {
        for i in 0..n {
            let (above, row) = rows.split_at_mut(i * n);
            for j in 0..i {
                let other = &above[j * n..j * n + j + 1];
                row[j] = (row[j] - dot(&row[..j], &other[..j])) / other[j];
            }
            let pivot = row[i] - dot(&row[..i], &row[..i]);
            // The comparison also refuses what is not a number.
            if !(pivot > 0.0 && pivot.is_finite()) {
                return None;
            }
            row[i] = pivot.sqrt();
        }
        Some(Self { n, rows, stride: n })
    }

    fn row(&self, i: usize) -> &[f64] {
        &self.rows[i * self.stride..i * self.stride + i + 1]
    }

    /// The factor of the matrix with one more row, whose entries beside the diagonal are `row`;
    /// `None` if that is not positive definite.
    pub(crate) fn extended(&self, row: &[f64], diagonal: f64) -> Option<Self> {
        let stride = self.n + 1;
        let mut rows = vec![0.0; stride * stride];
        for i in 0..self.n {
            rows[i * stride..i * stride + i + 1].copy_from_slice(self.row(i));
        }
        let solved = self.solve_lower(row);
        let pivot = diagonal - dot(&solved, &solved);
        if !(pivot > 0.0 && pivot.is_finite()) {
            return None;
        }
        rows[self.n * stride..self.n * stride + self.n].copy_from_slice(&solved);
        rows[self.n * stride + self.n] = pivot.sqrt();
        Some(Self { n: stride, rows, stride })
    }

    /// `L⁻¹ b`
    pub(crate) fn solve_lower(&self, b: &[f64]) -> Vec<f64> {
        let mut x = b.to_vec();
        for i in 0..self.n {
            let row = self.row(i);
            x[i] = (x[i] - dot(&row[..i], &x[..i])) / row[i];
        }
        x
    }

    /// `L⁻ᵀ b`
    pub(crate) fn solve_upper(&self, b: &[f64]) -> Vec<f64> {
        let mut x = b.to_vec();
        for i in (0..self.n).rev() {
            let row = self.row(i);
            x[i] /= row[i];
            let found = x[i];
            for (x, l) in x[..i].iter_mut().zip(row) {
                *x -= l * found;
            }
        }
        x
    }

    /// `A⁻¹ b`
    pub(crate) fn solve(&self, b: &[f64]) -> Vec<f64> {
        self.solve_upper(&self.solve_lower(b))
    }

    /// `L z`
    pub(crate) fn times(&self, z: &[f64]) -> Vec<f64> {
        (0..self.n).map(|i| dot(self.row(i), &z[..=i])).collect()
    }

    /// The logarithm of the determinant of `A`.
    pub(crate) fn log_determinant(&self) -> f64 {
        2.0 * (0..self.n).map(|i| self.rows[i * self.stride + i].ln()).sum::<f64>()
    }

    /// `A⁻¹`, whole.
    pub(crate) fn inverse(&self) -> Vec<f64> {
        let n = self.n;
        // Rows of Mᵀ, where M is L⁻¹: row j holds column j of M, which begins at j.
        let mut columns = vec![0.0; n * n];
        for j in 0..n {
            let column = &mut columns[j * n..(j + 1) * n];
            column[j] = 1.0 / self.row(j)[j];
            for i in j + 1..n {
                let row = self.row(i);
                column[i] = -dot(&row[j..i], &column[j..i]) / row[i];
            }
        }
        let mut inverse = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..=i {
                let (a, b) = (&columns[i * n + i..(i + 1) * n], &columns[j * n + i..(j + 1) * n]);
                let entry = dot(a, b);
                inverse[i * n + j] = entry;
                inverse[j * n + i] = entry;
            }
        }
        inverse
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_solves_inverts_and_grows() {
        let n = 11;
        let entry = |i: usize, j: usize| 1.0 / (1.0 + (i as f64 - j as f64).powi(2));
        let a: Vec<f64> = (0..n * n).map(|k| entry(k / n, k % n)).collect();
        let whole = Cholesky::new(a.clone(), n).unwrap();
        let b: Vec<f64> = (0..n).map(|i| i as f64 - 3.0).collect();
        let x = whole.solve(&b);
        let inverse = whole.inverse();
        for i in 0..n {
            assert!((dot(&a[i * n..(i + 1) * n], &x) - b[i]).abs() < 1e-9);
            assert!((dot(&inverse[i * n..(i + 1) * n], &b) - x[i]).abs() < 1e-9);
        }
        let part: Vec<f64> =
            (0..(n - 1) * (n - 1)).map(|k| entry(k / (n - 1), k % (n - 1))).collect();
        let row: Vec<f64> = (0..n - 1).map(|j| entry(n - 1, j)).collect();
        let grown = Cholesky::new(part, n - 1).unwrap().extended(&row, 1.0).unwrap();
        assert!((grown.log_determinant() - whole.log_determinant()).abs() < 1e-9);
        assert!(grown.solve(&b).iter().zip(&x).all(|(a, b)| (a - b).abs() < 1e-9));
        assert_eq!(whole.times(&whole.solve_lower(&b)).len(), n);
        assert!(Cholesky::new(vec![1.0, 2.0, 2.0, 1.0], 2).is_none(), "not positive definite");
    }
}
