//! Keys and values of past tokens, in pages, as half floats.

use std::ops::Range;

use half::slice::HalfFloatSliceExt;

use crate::kernels::wide::LANES;

/// What lies where. A layer has its pages side by side; a page has, for each key head, blocks of
/// sixteen keys, each coordinate by coordinate, so that a query is scored against sixteen keys at
/// once; and values token by token, as they are summed. Pages of fewer than sixteen tokens take as
/// much for their keys as pages of sixteen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub layers: usize,
    pub pages: usize,
    /// A power of two.
    pub page_tokens: usize,
    pub key_heads: usize,
    pub head_size: usize,
}

type Half16 = [u16; LANES];

impl Layout {
    /// Lanes of a head's value.
    pub(super) fn lanes(&self) -> usize {
        self.head_size.div_ceil(LANES)
    }

    fn key_blocks(&self) -> usize {
        self.page_tokens.div_ceil(LANES)
    }

    /// Lanes of one head's keys in a page.
    fn head_keys(&self) -> usize {
        self.key_blocks() * self.head_size
    }

    fn head_values(&self) -> usize {
        self.page_tokens * self.lanes()
    }

    /// Lanes of both, over all layers and pages, if that is a number.
    fn total(&self) -> Option<[usize; 2]> {
        let whole = |head: usize| {
            let page = head.checked_mul(self.key_heads)?;
            page.checked_mul(self.pages)?.checked_mul(self.layers)
        };
        let keys = self.key_blocks().checked_mul(self.head_size)?;
        Some([whole(keys)?, whole(self.page_tokens.checked_mul(self.lanes())?)?])
    }

    /// Bytes of all of it, if that is a number.
    pub(super) fn bytes(&self) -> Option<usize> {
        let [keys, values] = self.total()?;
        keys.checked_add(values)?.checked_mul(size_of::<Half16>())
    }
}

/// The cache of one generator.
pub(super) struct Cache {
    layout: Layout,
    keys: Vec<Half16>,
    values: Vec<Half16>,
}

impl Cache {
    /// All of it, or `None` if there is not so much memory. The system is asked for zeros and not
    /// given them, so that what is never used takes no memory.
    pub(super) fn new(layout: Layout) -> Option<Self> {
        let zeros = |count: usize| {
            let asked: Result<(), _> = Vec::<Half16>::new().try_reserve_exact(count);
            asked.ok().map(|()| vec![[0; LANES]; count])
        };
        let [keys, values] = layout.total()?;
        Some(Self { layout, keys: zeros(keys)?, values: zeros(values)? })
    }

    /// Puts one token's key and value of one head, in one layer.
    pub(super) fn put(
        &mut self,
        layer: usize,
        head: usize,
        place: Place,
        [key, value]: [&[f32]; 2],
    ) {
        let layout = self.layout;
        let mut halves = [half::f16::ZERO; LANES];
        let page = (layer * layout.pages + place.page) * layout.key_heads + head;
        let keys = &mut self.keys[page * layout.head_keys()..][..layout.head_keys()];
        let block = &mut keys[place.token / LANES * layout.head_size..][..layout.head_size];
        for (cells, key) in block.chunks_mut(LANES).zip(key.chunks(LANES)) {
            halves[..key.len()].convert_from_f32_slice(key);
            for (cell, half) in cells.iter_mut().zip(halves) {
                cell[place.token % LANES] = half.to_bits();
            }
        }
        let values = &mut self.values[page * layout.head_values()..][..layout.head_values()];
        let cells = &mut values[place.token * layout.lanes()..][..layout.lanes()];
        for (cell, value) in cells.iter_mut().zip(value.chunks(LANES)) {
            halves[..value.len()].convert_from_f32_slice(value);
            cell.iter_mut().zip(halves).for_each(|(cell, half)| *cell = half.to_bits());
        }
    }

    /// Sixteen keys of a head, of which those of tokens that were put are such.
    pub(super) fn keys(&self, layer: usize, head: usize, place: Place) -> &[Half16] {
        let layout = self.layout;
        let page = (layer * layout.pages + place.page) * layout.key_heads + head;
        let at = page * layout.head_keys() + place.token / LANES * layout.head_size;
        &self.keys[at..at + layout.head_size]
    }

    /// The values of these tokens of a page.
    pub(super) fn values(
        &self,
        layer: usize,
        head: usize,
        page: usize,
        tokens: Range<usize>,
    ) -> &[Half16] {
        let layout = self.layout;
        let page = (layer * layout.pages + page) * layout.key_heads + head;
        let first = page * layout.head_values() + tokens.start * layout.lanes();
        &self.values[first..first + tokens.len() * layout.lanes()]
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }
}

/// A token's place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub page: usize,
    pub token: usize,
}

impl Place {
    /// Where a position of a sequence lies.
    pub(super) fn of(position: usize, pages: &[u32], page_tokens: usize) -> Self {
        let page = pages[position / page_tokens] as usize;
        Self { page, token: position % page_tokens }
    }
}
