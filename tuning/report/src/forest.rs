//! A random forest for regression, whose trees know the box of every leaf.
//!
//! Breiman, *Random Forests*, 2001: each tree sees rows drawn with replacement, each split a share of the
//! columns. Everything is drawn from a fixed seed: the same trials give the same forest.

/// Trees; the marginals of a single one are rough, those of this many hardly change between seeds.
const TREES: usize = 64;
/// Rows in a leaf below which it is not split.
const SPLIT_MIN: usize = 4;
/// Share of the columns that a split may choose from, as in Hutter et al.
const COLUMNS_SHARE: f64 = 5.0 / 6.0;
/// Splits above a leaf; equal values end a tree long before, this bounds what odd numbers can do.
const DEPTH_MAX: usize = 48;
/// Most values of a column without order: the bits of a set.
pub(crate) const CHOICES_MAX: usize = 64;

/// One column of what the forest learns from.
#[derive(Clone, Debug)]
pub(crate) enum Column {
    /// Numbers from 0 to 1.
    Number(Vec<f64>),
    /// Places of values without order, below `of`, which is at most [`CHOICES_MAX`].
    Choice { places: Vec<u8>, of: usize },
}

impl Column {
    fn at(&self, row: usize) -> f64 {
        match self {
            Self::Number(values) => values[row],
            Self::Choice { places, .. } => f64::from(places[row]),
        }
    }
}

/// What part of one axis a leaf covers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Part {
    /// From, to.
    Interval(f64, f64),
    /// A set of places, as bits, and how many there are.
    Set(u64, usize),
}

impl Part {
    /// The share of its axis.
    pub(crate) fn width(self) -> f64 {
        match self {
            Self::Interval(low, high) => high - low,
            Self::Set(bits, of) => f64::from(bits.count_ones()) / of.max(1) as f64,
        }
    }

    /// Whether it has a number, or a place. The upper end of a cut belongs to the other side.
    fn has(self, at: f64) -> bool {
        match self {
            Self::Interval(_, high) => at < high,
            Self::Set(bits, _) => bits >> (at as u32).min(63) & 1 == 1,
        }
    }
}

/// A leaf: the box it covers, and what is predicted there.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) parts: Vec<Part>,
    pub(crate) value: f64,
}

/// One tree; its leaves together cover the space once.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub(crate) leaves: Vec<Leaf>,
    nodes: Vec<Node>,
}

#[derive(Clone, Copy, Debug)]
enum Node {
    /// A point goes to the first node if its column is in the part, else to the second.
    Split(usize, Part, usize, usize),
    Leaf(f64),
}

impl Tree {
    /// What is predicted at a point: a number from 0 to 1 for each column, or the place of a value
    /// without order.
    pub(crate) fn predict(&self, point: &[f64]) -> f64 {
        let mut at = 0;
        loop {
            match self.nodes[at] {
                Node::Leaf(value) => return value,
                Node::Split(column, part, yes, no) => {
                    at = if part.has(point[column]) { yes } else { no };
                }
            }
        }
    }
}

/// Grows a forest. All columns have as many rows as `target`.
pub(crate) fn grow(columns: &[Column], target: &[f64], seed: u64) -> Vec<Tree> {
    let whole: Vec<Part> = columns
        .iter()
        .map(|column| match column {
            Column::Number(_) => Part::Interval(0.0, 1.0),
            Column::Choice { of, .. } => Part::Set(u64::MAX >> (64 - (*of).clamp(1, 64)), *of),
        })
        .collect();
    (0..TREES as u64)
        .map(|tree| {
            let mut dice = Dice(seed ^ (tree + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let rows: Vec<usize> = target.iter().map(|_| dice.below(target.len())).collect();
            let tree = Tree { leaves: Vec::new(), nodes: Vec::new() };
            let mut grower = Grower { columns, target, dice, tree };
            grower.split(rows, whole.clone(), 0);
            grower.tree
        })
        .collect()
}

struct Grower<'a> {
    columns: &'a [Column],
    target: &'a [f64],
    dice: Dice,
    tree: Tree,
}

/// The best cut found so far.
struct Cut {
    column: usize,
    gain: f64,
    left: Part,
    right: Part,
}

impl Grower<'_> {
    /// Grows what is below a box; returns the place of its node.
    fn split(&mut self, rows: Vec<usize>, parts: Vec<Part>, depth: usize) -> usize {
        let cut = if rows.len() < SPLIT_MIN || depth >= DEPTH_MAX {
            None
        } else {
            self.best_cut(&rows, &parts)
        };
        let Some(cut) = cut else {
            let sum: f64 = rows.iter().map(|r| self.target[*r]).sum();
            let value = sum / rows.len().max(1) as f64;
            self.tree.leaves.push(Leaf { parts, value });
            self.tree.nodes.push(Node::Leaf(value));
            return self.tree.nodes.len() - 1;
        };
        let column = &self.columns[cut.column];
        let (left, right): (Vec<usize>, Vec<usize>) =
            rows.into_iter().partition(|row| cut.left.has(column.at(*row)));
        let node = self.tree.nodes.len();
        self.tree.nodes.push(Node::Leaf(0.0)); // its place is taken before those below
        let mut below = |rows, part| {
            let mut parts = parts.clone();
            parts[cut.column] = part;
            self.split(rows, parts, depth + 1)
        };
        let (yes, no) = (below(left, cut.left), below(right, cut.right));
        self.tree.nodes[node] = Node::Split(cut.column, cut.left, yes, no);
        node
    }

    fn best_cut(&mut self, rows: &[usize], parts: &[Part]) -> Option<Cut> {
        let wanted = (self.columns.len() as f64 * COLUMNS_SHARE).ceil() as usize;
        let mut order: Vec<usize> = (0..self.columns.len()).collect();
        self.dice.shuffle(&mut order);
        let mut best: Option<Cut> = None;
        for (tried, column) in order.into_iter().enumerate() {
            // A column that cannot be cut does not count, as long as nothing was found.
            if tried >= wanted && best.is_some() {
                break;
            }
            let cut = match (&self.columns[column], parts[column]) {
                (Column::Number(values), Part::Interval(low, high)) => {
                    self.cut_numbers(column, values, rows, (low, high))
                }
                (Column::Choice { places, of }, Part::Set(bits, _)) => {
                    self.cut_choices(column, places, rows, bits, *of)
                }
                _ => None,
            };
            if let Some(cut) = cut
                && best.as_ref().is_none_or(|b| cut.gain > b.gain)
            {
                best = Some(cut);
            }
        }
        best
    }

    fn cut_numbers(
        &self,
        column: usize,
        values: &[f64],
        rows: &[usize],
        (low, high): (f64, f64),
    ) -> Option<Cut> {
        let mut sorted: Vec<(f64, f64)> =
            rows.iter().map(|r| (values[*r], self.target[*r])).collect();
        sorted.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let total: f64 = sorted.iter().map(|s| s.1).sum();
        let count = sorted.len() as f64;
        let base = total * total / count;
        let (mut sum, mut best) = (0.0, None);
        for (i, pair) in sorted.windows(2).enumerate() {
            sum += pair[0].1;
            if pair[0].0 >= pair[1].0 {
                continue;
            }
            let n = (i + 1) as f64;
            let gain = sum * sum / n + (total - sum) * (total - sum) / (count - n) - base;
            let at = f64::midpoint(pair[0].0, pair[1].0);
            // Neighbours may have no number between them that tells them apart.
            if at > pair[0].0 && best.is_none_or(|(g, _)| gain > g) {
                best = Some((gain, at));
            }
        }
        let (gain, at) =
            best.filter(|(gain, _)| *gain > 1e-12 * base.abs().max(f64::MIN_POSITIVE))?;
        let (left, right) = (Part::Interval(low, at), Part::Interval(at, high));
        Some(Cut { column, gain, left, right })
    }

    /// In order of their means, the best two sets are neighbours (Breiman et al. 1984, §4.2.2). Places
    /// that no row has stay with the right, so that the leaves cover the space.
    fn cut_choices(
        &self,
        column: usize,
        places: &[u8],
        rows: &[usize],
        bits: u64,
        of: usize,
    ) -> Option<Cut> {
        let mut sums = [(0.0f64, 0u32); CHOICES_MAX];
        for row in rows {
            let place = usize::from(places[*row]).min(CHOICES_MAX - 1);
            sums[place].0 += self.target[*row];
            sums[place].1 += 1;
        }
        let mut present: Vec<usize> = (0..of.min(CHOICES_MAX)).filter(|p| sums[*p].1 > 0).collect();
        let mean = |p: usize| sums[p].0 / f64::from(sums[p].1);
        present.sort_by(|a, b| mean(*a).total_cmp(&mean(*b)));
        let total: f64 = present.iter().map(|p| sums[*p].0).sum();
        let count = rows.len() as f64;
        let base = total * total / count;
        let (mut sum, mut n, mut set, mut best) = (0.0, 0.0, 0u64, None);
        for place in present.iter().take(present.len().saturating_sub(1)) {
            sum += sums[*place].0;
            n += f64::from(sums[*place].1);
            set |= 1 << place;
            let gain = sum * sum / n + (total - sum) * (total - sum) / (count - n) - base;
            if best.is_none_or(|(g, _)| gain > g) {
                best = Some((gain, set));
            }
        }
        let (gain, set) =
            best.filter(|(gain, _)| *gain > 1e-12 * base.abs().max(f64::MIN_POSITIVE))?;
        Some(Cut { column, gain, left: Part::Set(set, of), right: Part::Set(bits & !set, of) })
    }
}

/// Numbers by chance that are the same everywhere (Steele et al., *SplitMix*, 2014).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 up to 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}
