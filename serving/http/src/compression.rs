//! Compressed bodies: `gzip` and `deflate`, in requests by `Content-Encoding`, in answers by
//! `Accept-Encoding`.
//!
//! What a compressed body claims to hold is never believed: it is expanded piece by piece and given
//! up at the byte that passes the limit. `deflate` is zlib's format, as HTTP has it; the bare
//! stream that some clients send under that name is taken too.

use std::io::{self, Read, Write};

use bytes::Bytes;
use flate2::{
    Compression,
    read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder},
    write::{GzEncoder, ZlibEncoder},
};
use http::{HeaderMap, HeaderValue, header};
use mizzen_serving_core::intake::{Share, Spent};

use crate::error::HttpError;

/// An encoding of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Gzip,
    Deflate,
}

impl Encoding {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }

    fn of(name: &str) -> Option<Self> {
        match name {
            _ if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") => {
                Some(Self::Gzip)
            }
            _ if name.eq_ignore_ascii_case("deflate") => Some(Self::Deflate),
            _ => None,
        }
    }

    /// The encoding of a request's body.
    ///
    /// # Errors
    /// [`HttpError::Encoding`] for one that is not known, or more than one.
    pub(crate) fn of_request(headers: &HeaderMap) -> Result<Option<Self>, HttpError> {
        let Some(value) = headers.get(header::CONTENT_ENCODING) else { return Ok(None) };
        let name = value.to_str().unwrap_or("?").trim();
        if name.is_empty() || name.eq_ignore_ascii_case("identity") {
            return Ok(None);
        }
        Self::of(name)
            .map(Some)
            .ok_or_else(|| HttpError::Encoding(String::from_utf8_lossy(value.as_bytes()).into()))
    }

    /// The encoding that a client likes best among those it names for an answer; at equal liking
    /// the first. `None` where it likes none better than `identity`, or does not ask.
    pub(crate) fn of_answer(headers: &HeaderMap) -> Option<Self> {
        let values = headers.get_all(header::ACCEPT_ENCODING).iter();
        let items = values.filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
        let (mut best, mut plain) = (None::<(f32, Self)>, 0.0);
        for (name, liking) in items.filter_map(item) {
            match Self::of(name) {
                Some(encoding) if liking > best.map_or(0.0, |(most, _)| most) => {
                    best = Some((liking, encoding));
                }
                None if name.eq_ignore_ascii_case("identity") => plain = liking,
                _ => {}
            }
        }
        best.filter(|(liking, _)| *liking >= plain).map(|(_, encoding)| encoding)
    }

    /// Expands a body, whose memory is of this share until nothing views it any longer.
    ///
    /// # Errors
    /// [`HttpError::ExpandedTooLarge`] at the byte that passes `limit`, [`HttpError::Spent`] if all
    /// bodies together have no room for it, [`HttpError::Compressed`] if it is not what it says or
    /// is cut short.
    pub(crate) fn expand(
        self,
        body: &[u8],
        limit: usize,
        mut share: Share,
    ) -> Result<Bytes, HttpError> {
        let read = match self {
            Self::Gzip => within(share.expand(MultiGzDecoder::new(body)), limit),
            Self::Deflate if is_zlib(body) => within(share.expand(ZlibDecoder::new(body)), limit),
            Self::Deflate => within(share.expand(DeflateDecoder::new(body)), limit),
        };
        let expanded = read.map_err(|source| match Spent::of(&source) {
            Some(spent) => spent.into(),
            None => HttpError::Compressed { encoding: self.as_str(), source },
        })?;
        if expanded.len() > limit {
            return Err(HttpError::ExpandedTooLarge { limit });
        }
        Ok(share.hold(expanded.into()))
    }

    /// Compresses an answer's pieces into one, fast rather than small: the client waits for it.
    pub(crate) fn compress(self, pieces: impl Iterator<Item = Bytes>) -> io::Result<Bytes> {
        match self {
            Self::Gzip => {
                let mut writer = GzEncoder::new(Vec::new(), Compression::fast());
                for piece in pieces {
                    writer.write_all(&piece)?;
                }
                writer.finish()
            }
            Self::Deflate => {
                let mut writer = ZlibEncoder::new(Vec::new(), Compression::fast());
                for piece in pieces {
                    writer.write_all(&piece)?;
                }
                writer.finish()
            }
        }
        .map(Bytes::from)
    }

    /// As a header's value.
    pub(crate) fn header(self) -> HeaderValue {
        HeaderValue::from_static(self.as_str())
    }
}

/// `gzip;q=0.5` as its parts; a weight that is not one counts as 0.
fn item(text: &str) -> Option<(&str, f32)> {
    let (name, rest) = text.split_once(';').unwrap_or((text, ""));
    let weight = rest.split(';').find_map(|p| p.trim().strip_prefix("q="));
    let liking = weight.map_or(Some(1.0), |q| q.trim().parse().ok().filter(|q| *q <= 1.0));
    Some((name.trim(), liking.unwrap_or(0.0))).filter(|(name, _)| !name.is_empty())
}

/// zlib's two bytes of header: method 8, and a multiple of 31 together.
fn is_zlib(body: &[u8]) -> bool {
    matches!(body, [first, second, ..]
        if first & 0x0f == 8 && u16::from_be_bytes([*first, *second]).is_multiple_of(31))
}

/// Reads until the end or one byte past the limit, with memory by what really came.
fn within(reader: impl Read, limit: usize) -> io::Result<Vec<u8>> {
    let mut expanded = Vec::new();
    reader.take((limit as u64).saturating_add(1)).read_to_end(&mut expanded)?;
    Ok(expanded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzen_serving_core::intake::Memory;
    use mizzen_types::{Coded, ErrorCode};
    use proptest::prelude::*;

    fn expand(encoding: Encoding, body: &[u8], limit: usize) -> Result<Bytes, HttpError> {
        encoding.expand(body, limit, Memory::default().share())
    }

    const BOTH: [Encoding; 2] = [Encoding::Gzip, Encoding::Deflate];

    fn headers(name: header::HeaderName, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|v| (name.clone(), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn the_clients_liking_decides() {
        use Encoding::{Deflate, Gzip};
        #[rustfmt::skip]
        let cases: &[(&str, &[&str], Option<Encoding>)] = &[
            ("nothing asked",        &[],                              None),
            ("one",                  &["deflate"],                     Some(Deflate)),
            ("the first of equals",  &["gzip, deflate"],               Some(Gzip)),
            ("the most liked",       &["gzip;q=0.5, deflate;q=0.8"],   Some(Deflate)),
            ("refused",              &["gzip;q=0"],                    None),
            ("unknown",              &["br, zstd"],                    None),
            ("beside unknown",       &["br", "GZIP"],                  Some(Gzip)),
            ("identity liked more",  &["identity, gzip;q=0.5"],        None),
            ("anything is no asking", &["*"],                          None),
            ("nonsense",             &["gzip;q=x, ;;,"],               None),
        ];
        for (shows, values, want) in cases {
            let got = Encoding::of_answer(&headers(header::ACCEPT_ENCODING, values));
            assert_eq!(got, *want, "{shows}");
        }
    }

    #[test]
    fn a_request_has_one_known_encoding_or_none() {
        let of = |v| Encoding::of_request(&headers(header::CONTENT_ENCODING, &[v]));
        assert_eq!(of("gzip").unwrap(), Some(Encoding::Gzip));
        assert_eq!(of("identity").unwrap(), None);
        for odd in ["br", "gzip, gzip"] {
            assert!(matches!(of(odd), Err(HttpError::Encoding(_))), "{odd}");
        }
    }

    #[test]
    fn a_bomb_is_given_up_at_the_limit() {
        for encoding in BOTH {
            let zeros = Bytes::from(vec![0; 4 << 20]);
            let bomb = encoding.compress([zeros].into_iter()).unwrap();
            assert!(bomb.len() < 100_000, "{}", bomb.len());
            let error = expand(encoding, &bomb, 1000).unwrap_err();
            assert_eq!(error.code(), ErrorCode::TooLarge);
            assert_eq!(expand(encoding, &bomb, 4 << 20).unwrap().len(), 4 << 20);
        }
    }

    #[test]
    fn what_is_cut_short_or_something_else_is_refused() {
        for encoding in BOTH {
            let whole = encoding.compress([Bytes::from_static(b"some text")].into_iter()).unwrap();
            for body in [&whole[..whole.len() - 1], b"plain text", b""] {
                let error = expand(encoding, body, 1000).unwrap_err();
                assert_eq!(error.code(), ErrorCode::InvalidArgument, "{encoding:?} {body:?}");
                assert!(error.message().contains(encoding.as_str()), "{}", error.message());
            }
        }
    }

    #[test]
    fn a_bare_deflate_stream_is_taken() {
        let mut writer = flate2::write::DeflateEncoder::new(Vec::new(), Compression::fast());
        writer.write_all(b"some text").unwrap();
        let bare = writer.finish().unwrap();
        assert_eq!(expand(Encoding::Deflate, &bare, 9).unwrap(), "some text");
    }

    proptest! {
        #[test]
        fn what_is_compressed_comes_back(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..99), 0..5),
            encoding in prop::sample::select(BOTH.to_vec()),
        ) {
            let whole = pieces.concat();
            let small = encoding.compress(pieces.into_iter().map(Bytes::from)).unwrap();
            prop_assert_eq!(&expand(encoding, &small, whole.len()).unwrap()[..], &whole[..]);
        }

        #[test]
        fn any_bytes_are_taken(
            bytes in prop::collection::vec(any::<u8>(), 0..99),
            encoding in prop::sample::select(BOTH.to_vec()),
        ) {
            let _ = expand(encoding, &bytes, 1000);
        }
    }

    #[test]
    fn what_expands_is_of_the_memory_that_bodies_have_together() {
        let memory = Memory::new(1000);
        for encoding in BOTH {
            let bomb = encoding.compress([Bytes::from(vec![0; 4 << 20])].into_iter()).unwrap();
            let error = encoding.expand(&bomb, 64 << 20, memory.share()).unwrap_err();
            assert!(matches!(error, HttpError::Spent(_)), "{error}");
            let small = encoding.compress([Bytes::from(vec![0; 900])].into_iter()).unwrap();
            let body = encoding.expand(&small, 900, memory.share()).unwrap();
            assert_eq!((body.len(), memory.held()), (900, 900));
        }
        assert_eq!(memory.held(), 0);
    }
}
