//! Text from tokens, as they come.

/// Makes text of bytes that come in pieces. A character whose bytes have not all come is held back;
/// bytes that are no text become U+FFFD, the last of them only once it is known that no more come.
#[derive(Debug, Clone, Default)]
pub struct Detokenizer {
    /// The beginning of a character: three bytes at most.
    held: Vec<u8>,
}

impl Detokenizer {
    /// The text that is certain now that these bytes have come.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        let mut text = String::with_capacity(bytes.len());
        let joined;
        let mut rest = bytes;
        if !self.held.is_empty() {
            self.held.extend_from_slice(bytes);
            joined = std::mem::take(&mut self.held);
            rest = &joined;
        }
        loop {
            match std::str::from_utf8(rest) {
                Ok(good) => {
                    text.push_str(good);
                    return text;
                }
                Err(error) => {
                    let (good, bad) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(good).unwrap_or_default());
                    let Some(length) = error.error_len() else {
                        self.held = bad.to_vec();
                        return text;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &bad[length..];
                }
            }
        }
    }

    /// What is left when no more comes.
    pub fn finish(&mut self) -> String {
        let held = std::mem::take(&mut self.held);
        if held.is_empty() { String::new() } else { char::REPLACEMENT_CHARACTER.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(pieces: &[Vec<u8>]) -> String {
        let mut detokenizer = Detokenizer::default();
        let mut text: String = pieces.iter().map(|piece| detokenizer.push(piece)).collect();
        text += &detokenizer.finish();
        text
    }

    #[test]
    fn a_character_comes_with_its_last_byte() {
        let mut detokenizer = Detokenizer::default();
        let crab = "🦀".as_bytes();
        assert_eq!(detokenizer.push(&[b'a', crab[0]]), "a");
        assert_eq!(detokenizer.push(&crab[1..3]), "");
        assert_eq!(detokenizer.push(&crab[3..]), "🦀");
        assert_eq!(detokenizer.push(&crab[..2]), "");
        assert_eq!(detokenizer.push(b"b"), "\u{FFFD}b");
        assert_eq!(detokenizer.push(&crab[..3]), "");
        assert_eq!(detokenizer.finish(), "\u{FFFD}");
        assert_eq!(detokenizer.finish(), "");
    }

    proptest! {
        #[test]
        fn pieces_make_what_the_whole_makes(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6), 0..20)) {
            let bytes = pieces.concat();
            prop_assert_eq!(whole(&pieces), String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn text_survives_being_cut_anywhere(text in ".*", cuts in prop::collection::vec(0usize..8, 0..20)) {
            let mut rest = text.as_bytes();
            let mut pieces = Vec::new();
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece.to_vec());
                rest = after;
            }
            pieces.push(rest.to_vec());
            prop_assert_eq!(whole(&pieces), text);
        }
    }
}
