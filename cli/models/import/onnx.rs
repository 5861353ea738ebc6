//! As much of ONNX's protobuf as an import needs: whether a file is a model, and which files beside it
//! hold its weights.
//!
//! Messages are walked, not read into memory: what is of no interest is skipped by its length, and no
//! length is believed beyond the message it stands in.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _},
    path::Path,
};

/// What a file turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// A model, and the files that its tensors name, as it writes them.
    Model(BTreeSet<String>),
    /// The beginning of a model.
    CutShort,
    /// Something else.
    Other,
}

/// Walks a file.
///
/// # Errors
/// It cannot be read.
pub(super) fn scan(path: &Path) -> io::Result<Scan> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut walk = Walk {
        bytes: BufReader::new(file),
        at: 0,
        model: Seen::default(),
        external: BTreeSet::new(),
    };
    match walk.message(Message::Model, len, 0) {
        Ok(()) if walk.model.graph && walk.model.version => Ok(Scan::Model(walk.external)),
        Err(Stop::Io(error)) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        // A length beyond the end of what began as a model.
        Err(Stop::TooLong) if walk.model.version => Ok(Scan::CutShort),
        _ => Ok(Scan::Other),
    }
}

/// Messages on the way to tensors, by ONNX's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Function,
    Tensor,
    Sparse,
    /// A key and a value, of a tensor's `external_data`.
    Entry,
}

impl Message {
    /// The message that a field holds, if it may lead to a tensor.
    fn below(self, field: u64) -> Option<Self> {
        match (self, field) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) => Some(Self::Graph),
            (Self::Model, 25) => Some(Self::Function),
            (Self::Graph, 1) | (Self::Function, 7) => Some(Self::Node),
            (Self::Node, 5) => Some(Self::Attribute),
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::Sparse, 1 | 2) => {
                Some(Self::Tensor)
            }
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Some(Self::Sparse),
            (Self::Tensor, 13) => Some(Self::Entry),
            _ => None,
        }
    }
}

/// The last field that `ModelProto` has, and some room for those to come.
const MODEL_FIELDS_MAX: u64 = 64;
/// The last version of the format, and room likewise.
const IR_VERSION_MAX: u64 = 64;
/// Graphs within graphs; compilers give up long before.
const DEPTH_MAX: usize = 64;
/// Bytes of a key or a file's name.
const TEXT_BYTES_MAX: u64 = 4096;

/// What a model has that nothing else is likely to.
#[derive(Debug, Default)]
struct Seen {
    version: bool,
    graph: bool,
}

struct Walk {
    bytes: BufReader<File>,
    at: u64,
    model: Seen,
    external: BTreeSet<String>,
}

enum Stop {
    Io(io::Error),
    /// No protobuf, or not of this schema.
    Wrong,
    /// A field of the outermost message ends after the file does.
    TooLong,
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Walk {
    fn message(&mut self, what: Message, end: u64, depth: usize) -> Result<(), Stop> {
        if depth > DEPTH_MAX {
            return Err(Stop::Wrong);
        }
        let (mut key, mut value) = (None, None);
        while self.at < end {
            let tag = self.varint()?;
            let (field, wire) = (tag >> 3, tag & 7);
            if field == 0 || (what == Message::Model && field > MODEL_FIELDS_MAX) {
                return Err(Stop::Wrong);
            }
            let len = match wire {
                0 => {
                    let number = self.varint()?;
                    if what == Message::Model && field == 1 {
                        self.model.version = (1..=IR_VERSION_MAX).contains(&number);
                    }
                    continue;
                }
                1 => 8,
                5 => 4,
                2 => self.varint()?,
                _ => return Err(Stop::Wrong),
            };
            let below = self.at.checked_add(len).filter(|below| *below <= end);
            let too_long = if what == Message::Model { Stop::TooLong } else { Stop::Wrong };
            let below = below.ok_or(too_long)?;
            match (what, field, wire) {
                (Message::Entry, 1, 2) => key = self.text(len)?,
                (Message::Entry, 2, 2) => value = self.text(len)?,
                (_, _, 2) => match what.below(field) {
                    Some(inner) => {
                        self.message(inner, below, depth + 1)?;
                        self.model.graph |= what == Message::Model && inner == Message::Graph;
                    }
                    None => self.skip(len)?,
                },
                _ => self.skip(len)?,
            }
        }
        if let (Some("location"), Some(file)) = (key.as_deref(), value) {
            self.external.insert(file);
        }
        if self.at == end { Ok(()) } else { Err(Stop::Wrong) }
    }

    fn varint(&mut self) -> Result<u64, Stop> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.fill_buf()?.first().ok_or(Stop::Wrong)?;
            self.bytes.consume(1);
            self.at += 1;
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Stop::Wrong)
    }

    fn text(&mut self, len: u64) -> Result<Option<String>, Stop> {
        if len > TEXT_BYTES_MAX {
            self.skip(len)?;
            return Ok(None);
        }
        let mut text = Vec::new();
        (&mut self.bytes).take(len).read_to_end(&mut text)?;
        self.at += len;
        String::from_utf8(text).map(Some).map_err(|_| Stop::Wrong)
    }

    fn skip(&mut self, len: u64) -> Result<(), Stop> {
        self.bytes.seek_relative(i64::try_from(len).map_err(|_| Stop::Wrong)?)?;
        self.at += len;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field of bytes.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        let mut len = bytes.len();
        while len > 0x7F {
            out.push(len as u8 | 0x80);
            len >>= 7;
        }
        out.push(len as u8);
        out.extend_from_slice(bytes);
        out
    }

    fn tensor(file: &str) -> Vec<u8> {
        field(13, &[field(1, b"location"), field(2, file.as_bytes())].concat())
    }

    fn model(graph: &[u8]) -> Vec<u8> {
        [vec![0x08, 9], field(2, b"maker"), field(7, graph)].concat()
    }

    fn scanned(bytes: &[u8]) -> Scan {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        scan(file.path()).unwrap()
    }

    #[test]
    fn files_of_weights_are_found_wherever_tensors_may_be() {
        let attribute = |tag, of: &[u8]| field(1, &field(5, &field(tag, of)));
        let inner = [field(5, &tensor("c")), attribute(5, &tensor("d"))].concat();
        let graph = [
            field(2, b"name"),
            field(5, &tensor("a")),
            field(5, &tensor("a")),
            field(5, &[field(9, &[1; 300]), tensor("sub/b")].concat()),
            attribute(6, &inner),
        ];
        let Scan::Model(files) = scanned(&model(&graph.concat())) else { panic!("it is a model") };
        assert_eq!(files.into_iter().collect::<Vec<_>>(), ["a", "c", "d", "sub/b"]);
    }

    #[test]
    fn what_is_no_model_is_told_from_one_that_is_cut_short() {
        let whole = model(&field(5, &field(9, &[7; 200])));
        assert_eq!(scanned(&whole), Scan::Model(BTreeSet::new()));
        assert_eq!(scanned(&whole[..whole.len() - 9]), Scan::CutShort);
        for other in [&b""[..], b"{}", b"PK\x03\x04", b"hello, world", &[0x08, 9], &[0xFF; 99]] {
            assert_eq!(scanned(other), Scan::Other, "{other:?}");
        }
        let mut nested = Vec::new();
        for _ in 0..DEPTH_MAX {
            nested = field(1, &field(5, &field(6, &nested)));
        }
        assert_eq!(scanned(&model(&nested)), Scan::Other, "too deep");
    }
}
