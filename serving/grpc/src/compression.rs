//! Compressed messages, each whole and by itself, as gRPC has them.
//!
//! A client that compresses what it sends gets its answers compressed the same way; one that does
//! not gets them plain, although most clients say that they could read compressed ones: on the
//! networks that models are served in, compressing costs more than it saves.

use std::io::{self, Read, Write};

use bytes::Bytes;
use flate2::{
    Compression,
    read::{GzDecoder, ZlibDecoder},
    write::{GzEncoder, ZlibEncoder},
};
use http::{HeaderMap, HeaderValue};
use mizzen_serving_core::intake::{Intake, Spent};

use crate::error::GrpcError;

const ENCODING: &str = "grpc-encoding";
const ACCEPT: &str = "grpc-accept-encoding";

/// What answers say that this server can read.
pub(crate) const ACCEPTED: &str = "identity,gzip,deflate";

/// How messages of a call are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// RFC 1952.
    Gzip,
    /// The zlib format of RFC 1950, which is what gRPC means by the word.
    Deflate,
}

impl Encoding {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }

    /// How a call's messages come, by its headers; `None` for plain ones.
    ///
    /// # Errors
    /// [`GrpcError::Encoding`] for one that is not known here.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Option<Self>, GrpcError> {
        match headers.get(ENCODING).map(HeaderValue::as_bytes) {
            None | Some(b"identity" | b"") => Ok(None),
            Some(b"gzip") => Ok(Some(Self::Gzip)),
            Some(b"deflate") => Ok(Some(Self::Deflate)),
            Some(other) => Err(GrpcError::Encoding(String::from_utf8_lossy(other).into_owned())),
        }
    }

    /// How to compress the answer: as the request came, if the client reads that.
    pub(crate) fn for_answer(self, headers: &HeaderMap) -> Option<Self> {
        let accepted = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok());
        let mut names = accepted.flat_map(|v| v.split(',')).map(str::trim);
        names.any(|name| name == self.as_str()).then_some(self)
    }

    /// A message as it was before it was compressed.
    ///
    /// # Errors
    /// [`GrpcError::Inflated`] as soon as more bytes come out than are taken, however few went in;
    /// [`GrpcError::Spent`] if all messages together have no room for them; [`GrpcError::Corrupt`]
    /// for what is not of this format.
    pub(crate) fn inflate(self, message: &[u8], intake: &Intake) -> Result<Bytes, GrpcError> {
        let (limit, mut share) = (intake.bytes_max, intake.memory.share());
        let (mut whole, most) = (Vec::new(), limit as u64 + 1);
        let read = match self {
            Self::Gzip => share.expand(GzDecoder::new(message)).take(most).read_to_end(&mut whole),
            Self::Deflate => {
                share.expand(ZlibDecoder::new(message)).take(most).read_to_end(&mut whole)
            }
        };
        read.map_err(|source| match Spent::of(&source) {
            Some(spent) => spent.into(),
            None => GrpcError::Corrupt { encoding: self.as_str(), source },
        })?;
        if whole.len() > limit {
            return Err(GrpcError::Inflated { limit });
        }
        Ok(share.hold(whole.into()))
    }

    /// A message, compressed quickly rather than well.
    pub(crate) fn deflate(self, message: &[u8]) -> io::Result<Vec<u8>> {
        let (space, level) = (Vec::with_capacity(message.len() / 4), Compression::fast());
        match self {
            Self::Gzip => {
                let mut encoder = GzEncoder::new(space, level);
                encoder.write_all(message)?;
                encoder.finish()
            }
            Self::Deflate => {
                let mut encoder = ZlibEncoder::new(space, level);
                encoder.write_all(message)?;
                encoder.finish()
            }
        }
    }
}

/// Leaves in a call's headers only as much of what the client accepts as is used for answering it.
pub(crate) fn narrow_accepted(headers: &mut HeaderMap) {
    let answer = Encoding::of(headers).ok().flatten().and_then(|e| e.for_answer(headers));
    match answer {
        Some(encoding) => {
            headers.insert(ACCEPT, HeaderValue::from_static(encoding.as_str()));
        }
        None => {
            headers.remove(ACCEPT);
        }
    }
}

/// Says in an answer's headers how its messages are compressed.
pub(crate) fn announce(headers: &mut HeaderMap, encoding: Encoding) {
    headers.insert(ENCODING, HeaderValue::from_static(encoding.as_str()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzen_serving_core::intake::Memory;
    use mizzen_types::{Coded, ErrorCode};

    fn most(bytes_max: usize) -> Intake {
        Intake { bytes_max, ..Intake::default() }
    }

    #[test]
    fn what_is_compressed_comes_back_and_a_bomb_does_not() {
        for encoding in [Encoding::Gzip, Encoding::Deflate] {
            let zeros = vec![0; 1 << 20];
            let small = encoding.deflate(&zeros).unwrap();
            assert!(small.len() < zeros.len() / 100);
            assert_eq!(encoding.inflate(&small, &most(zeros.len())).unwrap(), zeros);
            let error = encoding.inflate(&small, &most(zeros.len() - 1)).unwrap_err();
            assert_eq!(error.code(), ErrorCode::ResourceExhausted);
            let intake = Intake { memory: Memory::new(1000), ..Intake::default() };
            let error = encoding.inflate(&small, &intake).unwrap_err();
            assert!(matches!(error, GrpcError::Spent(_)) && intake.memory.held() == 0, "{error}");
            let error = encoding.inflate(b"not compressed", &most(100)).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument, "{error}");
        }
    }

    #[test]
    fn answers_are_compressed_as_requests_are() {
        #[rustfmt::skip]
        let cases = [
            // what the case shows        came             accepted                    answer
            ("plain stays plain",         None,            Some("identity,gzip"),      None),
            ("as it came",                Some("gzip"),    Some("identity, deflate, gzip"), Some("gzip")),
            ("the other one",             Some("deflate"), Some("identity, deflate, gzip"), Some("deflate")),
            ("sent but not read",         Some("gzip"),    Some("identity"),           None),
            ("nothing said",              Some("gzip"),    None,                       None),
        ];
        for (shows, came, accepted, want) in cases {
            let mut headers = HeaderMap::new();
            came.map(|v| headers.insert(ENCODING, HeaderValue::from_static(v)));
            accepted.map(|v| headers.insert(ACCEPT, HeaderValue::from_static(v)));
            narrow_accepted(&mut headers);
            assert_eq!(headers.get(ACCEPT).map(|v| v.to_str().unwrap()), want, "{shows}");
        }
    }
}
