//! Metrics in TensorFlow's event files.
//!
//! A file is a row of records, each framed by its length and two masked CRC-32Cs; a record is an `Event`
//! message of which we read the time and the scalars, be they `simple_value`s (TensorFlow 1, PyTorch) or
//! tensors of one element (TensorFlow 2). The last record may be incomplete, as the file is still written.

use std::sync::Arc;

use jiff::Timestamp;

use crate::{
    MetricRecord,
    wire::{Field, Fields, f32_of, f64_of},
};

/// The longest record that is read; longer ones, pictures and graphs, are passed over unread.
pub const RECORD_BYTES_MAX: usize = 4 << 20;

/// Length, its checksum.
const HEADER_BYTES: usize = 12;
/// The data's checksum.
const FOOTER_BYTES: usize = 4;

/// Finds metrics in one event file while it is written.
#[derive(Debug)]
pub struct EventFile {
    wanted: Vec<Wanted>,
    buffer: Vec<u8>,
    /// Bytes of a record that is passed over.
    skip: u64,
    broken: bool,
    skipped: u64,
}

/// A metric, and which tags of this file are its own.
#[derive(Debug)]
struct Wanted {
    metric: Arc<str>,
    tag: String,
}

impl EventFile {
    /// A reader of these metrics in a file of the directory `dir`, a path with `/` between its parts.
    ///
    /// Katib's rule: metric `train/accuracy` is the tags that begin with `accuracy` in files whose
    /// directory ends with `train`; metric `accuracy` is those tags in any directory. A tag that is the
    /// metric's whole name counts as well, wherever it is.
    pub fn new(metrics: &[String], dir: &str) -> Self {
        let dir = dir.trim_end_matches('/');
        let wanted = |metric: &String| {
            let (parent, tag) = metric.rsplit_once('/').unwrap_or(("", metric));
            let parent = parent.trim_start_matches('/');
            let below = dir
                .strip_suffix(parent)
                .is_some_and(|rest| parent.is_empty() || rest.is_empty() || rest.ends_with('/'));
            // No tag is empty, so an empty one here would mean all.
            let tag = if below && !tag.is_empty() { tag.to_owned() } else { metric.clone() };
            Wanted { metric: metric.as_str().into(), tag }
        };
        let wanted = metrics.iter().filter(|m| !m.is_empty()).map(wanted).collect();
        Self { wanted, buffer: Vec::new(), skip: 0, broken: false, skipped: 0 }
    }

    /// Takes the file's next bytes; gives the records of the events that they complete.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Vec<MetricRecord> {
        let mut found = Vec::new();
        while !bytes.is_empty() && !self.broken {
            let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
            self.skip -= skipped as u64;
            bytes = &bytes[skipped..];
            let room = self.wants().saturating_sub(self.buffer.len()).min(bytes.len());
            self.buffer.extend_from_slice(&bytes[..room]);
            bytes = &bytes[room..];
            self.step(&mut found);
        }
        found
    }

    /// Records that could not be read: a checksum was wrong, the record too long, or it was no event.
    /// A wrong length ends the reading, as nothing says where the next record begins.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// How many bytes the buffer is to hold before it is looked at.
    fn wants(&self) -> usize {
        match self.length() {
            None => HEADER_BYTES,
            // Looked at when the header came, and not beyond RECORD_BYTES_MAX.
            Some(length) => HEADER_BYTES + length as usize + FOOTER_BYTES,
        }
    }

    fn length(&self) -> Option<u64> {
        let header = self.buffer.first_chunk::<HEADER_BYTES>()?;
        header.first_chunk().map(|length| u64::from_le_bytes(*length))
    }

    fn step(&mut self, found: &mut Vec<MetricRecord>) {
        let Some(length) = self.length() else { return };
        if self.buffer.len() == HEADER_BYTES {
            if !checks(&self.buffer[..8], &self.buffer[8..]) {
                self.broken = true;
                self.skipped += 1;
                self.buffer = Vec::new();
            } else if length > RECORD_BYTES_MAX as u64 {
                self.skip = length.saturating_add(FOOTER_BYTES as u64);
                self.skipped += 1;
                self.buffer.clear();
            }
            return;
        }
        if self.buffer.len() < self.wants() {
            return;
        }
        let (data, checksum) = self.buffer[HEADER_BYTES..].split_at(length as usize);
        let read = checks(data, checksum).then(|| self.event(data)).flatten();
        match read {
            Some(records) => found.extend(records),
            None => self.skipped += 1,
        }
        self.buffer.clear();
    }

    /// The metrics of an event; none if it is no such message.
    fn event(&self, data: &[u8]) -> Option<Vec<MetricRecord>> {
        let (mut time, mut records) = (None, Vec::new());
        for field in Fields::new(data) {
            match field? {
                (1, Field::Fixed64(bits)) => time = moment(f64::from_bits(bits)),
                (5, Field::Bytes(summary)) => {
                    for value in Fields::new(summary) {
                        if let (1, Field::Bytes(value)) = value? {
                            self.value(value, &mut records)?;
                        }
                    }
                }
                _ => {}
            }
        }
        records.iter_mut().for_each(|record| record.timestamp = time);
        Some(records)
    }

    fn value(&self, data: &[u8], records: &mut Vec<MetricRecord>) -> Option<()> {
        let (mut tag, mut scalar) = ("", None);
        for field in Fields::new(data) {
            match field? {
                (1, Field::Bytes(text)) => tag = std::str::from_utf8(text).ok()?,
                (2, Field::Fixed32(bits)) => scalar = Some(f32::from_bits(bits).to_string()),
                (8, Field::Bytes(tensor)) => scalar = tensor_scalar(tensor)?.or(scalar),
                _ => {}
            }
        }
        let Some(scalar) = scalar else { return Some(()) };
        for wanted in &self.wanted {
            if tag.starts_with(&wanted.tag) || *tag == *wanted.metric {
                let (name, value) = (wanted.metric.clone(), scalar.clone());
                records.push(MetricRecord { name, value, timestamp: None });
            }
        }
        Some(())
    }
}

/// Seconds since 1970 as a moment; out of range is no time, rather than the wrong one.
fn moment(seconds: f64) -> Option<Timestamp> {
    let whole = (seconds.is_finite() && seconds.abs() < 1e12).then_some(seconds.trunc() as i64)?;
    Timestamp::new(whole, (seconds.fract() * 1e9) as i32).ok()
}

/// Of `tensorflow.DataType`, those that are numbers.
mod types {
    pub(super) const FLOAT: u64 = 1;
    pub(super) const DOUBLE: u64 = 2;
    pub(super) const INT32: u64 = 3;
    pub(super) const UINT8: u64 = 4;
    pub(super) const INT16: u64 = 5;
    pub(super) const INT8: u64 = 6;
    pub(super) const INT64: u64 = 9;
}

/// The text of a tensor's one element: nothing where it has another number of them or is of another type;
/// `None` if it is no tensor at all.
fn tensor_scalar(data: &[u8]) -> Option<Option<String>> {
    let (mut dtype, mut elements, mut content) = (0, 1u64, &[][..]);
    let (mut floats, mut doubles, mut ints) = (Vec::new(), Vec::new(), Vec::new());
    for field in Fields::new(data) {
        match field? {
            (1, Field::Varint(number)) => dtype = number,
            (2, Field::Bytes(shape)) => elements = count(shape)?,
            (4, Field::Bytes(bytes)) => content = bytes,
            (5, Field::Bytes(packed)) => floats.extend(packed.chunks_exact(4).filter_map(f32_of)),
            (5, Field::Fixed32(bits)) => floats.push(f32::from_bits(bits)),
            (6, Field::Bytes(packed)) => doubles.extend(packed.chunks_exact(8).filter_map(f64_of)),
            (6, Field::Fixed64(bits)) => doubles.push(f64::from_bits(bits)),
            (7 | 10, Field::Varint(number)) => ints.push(number as i64),
            (7 | 10, Field::Bytes(packed)) => ints.extend(Fields::packed(packed)?),
            _ => {}
        }
    }
    if elements != 1 {
        return Some(None);
    }
    let int = |bytes: &[u8]| -> Option<i64> {
        Some(match (dtype, bytes.len()) {
            (types::INT64, 8) => i64::from_le_bytes(bytes.try_into().ok()?),
            (types::INT32, 4) => i64::from(i32::from_le_bytes(bytes.try_into().ok()?)),
            (types::INT16, 2) => i64::from(i16::from_le_bytes(bytes.try_into().ok()?)),
            (types::INT8, 1) => i64::from(bytes[0].cast_signed()),
            (types::UINT8, 1) => i64::from(bytes[0]),
            _ => return None,
        })
    };
    let exactly = |bytes: usize| (content.len() == bytes).then_some(content);
    Some(match dtype {
        types::FLOAT => {
            exactly(4).and_then(f32_of).or(floats.first().copied()).map(|v| v.to_string())
        }
        types::DOUBLE => {
            exactly(8).and_then(f64_of).or(doubles.first().copied()).map(|v| v.to_string())
        }
        types::INT64 | types::INT32 | types::INT16 | types::INT8 | types::UINT8 => {
            int(content).or(ints.first().copied()).map(|v| v.to_string())
        }
        _ => None,
    })
}

/// The elements of a tensor of this shape; a scalar has no dimensions, and one.
fn count(shape: &[u8]) -> Option<u64> {
    let mut elements = 1u64;
    for field in Fields::new(shape) {
        if let (2, Field::Bytes(dimension)) = field? {
            let mut size = 0;
            for field in Fields::new(dimension) {
                if let (1, Field::Varint(number)) = field? {
                    size = number;
                }
            }
            elements = elements.saturating_mul(size);
        }
    }
    Some(elements)
}

fn checks(data: &[u8], checksum: &[u8]) -> bool {
    checksum.first_chunk().is_some_and(|sum| u32::from_le_bytes(*sum) == masked_crc(data))
}

/// The CRC-32C of data, turned and shifted as in TensorFlow's records, so that a checksum of data that
/// holds checksums is not degenerate.
pub(crate) fn masked_crc(data: &[u8]) -> u32 {
    let crc = data
        .iter()
        .fold(!0u32, |crc, byte| CRC_TABLE[usize::from((crc as u8) ^ byte)] ^ (crc >> 8));
    (!crc).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// For Castagnoli's polynomial, reflected.
const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let (mut crc, mut bit) = (i as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_format() {
        // RFC 3720, B.4: 32 bytes of zeros have the CRC-32C 0x8a9136aa.
        assert_eq!(
            masked_crc(&[0; 32]),
            0x8a91_36aa_u32.rotate_right(15).wrapping_add(0xa282_ead8)
        );
        assert!(checks(b"", &masked_crc(b"").to_le_bytes()));
    }
}
