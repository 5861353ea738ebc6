//! Transformers by plain loops in f64, token by token as the papers write them: padded positions are
//! computed like all others and masked in attention, nothing is packed, fused or reordered.

use super::Tensors;

pub(crate) type Row = Vec<f64>;

/// Weights, read by name.
pub(crate) struct Reader<'a>(pub(crate) &'a Tensors);

impl Reader<'_> {
    fn values(&self, name: &str) -> Option<Row> {
        Some(self.0.get(name)?.1.iter().map(|value| f64::from(*value)).collect())
    }

    pub(crate) fn entry(&self, table: &str, index: usize) -> Row {
        let (dims, values) = &self.0[table];
        values[index * dims[1]..(index + 1) * dims[1]].iter().map(|v| f64::from(*v)).collect()
    }

    /// `weight · x + bias`, without bias if there is none.
    pub(crate) fn linear(&self, name: &str, x: &[f64]) -> Row {
        let weight = self.values(&format!("{name}.weight")).expect(name);
        let mut y: Row = weight.chunks(x.len()).map(|row| dot(row, x)).collect();
        if let Some(bias) = self.values(&format!("{name}.bias")) {
            y = sum(&y, &bias);
        }
        y
    }

    pub(crate) fn layer_norm(&self, name: &str, x: &[f64], epsilon: f64) -> Row {
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let centred: Row = x.iter().map(|x| x - mean).collect();
        let mut y = self.rms_norm(name, &centred, epsilon);
        if let Some(bias) = self.values(&format!("{name}.bias")) {
            y = sum(&y, &bias);
        }
        y
    }

    pub(crate) fn rms_norm(&self, name: &str, x: &[f64], epsilon: f64) -> Row {
        let weight = self.values(&format!("{name}.weight")).expect(name);
        let scale = 1.0 / (dot(x, x) / x.len() as f64 + epsilon).sqrt();
        x.iter().zip(weight).map(|(x, w)| x * scale * w).collect()
    }
}

pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub(crate) fn sum(a: &[f64], b: &[f64]) -> Row {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

pub(crate) fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt()))
}

pub(crate) fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
}

pub(crate) fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

pub(crate) fn activation(name: &str) -> fn(f64) -> f64 {
    match name {
        "gelu" => gelu,
        "gelu_new" | "gelu_pytorch_tanh" => gelu_tanh,
        "relu" => |x| x.max(0.0),
        "silu" => silu,
        other => panic!("{other}"),
    }
}

/// Attention of one head: what each query gets of the values whose keys it may see; zeros if it sees
/// none, as padding may.
pub(crate) fn attend(
    q: &[Row],
    k: &[Row],
    v: &[Row],
    sees: impl Fn(usize, usize) -> bool,
) -> Vec<Row> {
    let one = |(i, q): (usize, &Row)| {
        let seen: Vec<usize> = (0..k.len()).filter(|j| sees(i, *j)).collect();
        let weight = |j: &usize| (dot(q, &k[*j]) / (q.len() as f64).sqrt()).exp();
        let total: f64 = seen.iter().map(weight).sum();
        let mut out = vec![0.0; v[0].len()];
        for j in &seen {
            out.iter_mut().zip(&v[*j]).for_each(|(out, v)| *out += weight(j) / total * v);
        }
        out
    };
    q.iter().enumerate().map(one).collect()
}

/// Heads side by side: each token's part for head `index` of size `size`.
pub(crate) fn head(rows: &[Row], index: usize, size: usize) -> Vec<Row> {
    rows.iter().map(|row| row[index * size..(index + 1) * size].to_vec()).collect()
}

/// All heads' outputs put side by side again.
pub(crate) fn side_by_side(heads: &[Vec<Row>]) -> Vec<Row> {
    (0..heads[0].len()).map(|i| heads.iter().flat_map(|head| head[i].clone()).collect()).collect()
}
