//! Memory in proportion to what was sent.

/// What a reader may take whatever it reads: buffers of a fixed size, an error's text.
const FLOOR: u64 = 64 * 1024;

/// Bytes held at once for each byte sent. The dearest honest input is a list of empty things, each
/// two or three bytes on the wire and a structure in memory, in a vector that has just doubled.
const FACTOR: u64 = 192;

/// Runs `read` over input of this length, and gives what it gives.
///
/// # Panics
/// If it holds more memory at once than its input accounts for: then a number in the input, rather
/// than the input itself, has been taken for a size.
pub(crate) fn bounded<T>(length: usize, read: impl FnOnce() -> T) -> T {
    bounded_by(FLOOR, length, read)
}

/// As [`bounded`], for a reader that may take this much whatever it reads.
pub(crate) fn bounded_by<T>(floor: u64, length: usize, read: impl FnOnce() -> T) -> T {
    let mut result = None;
    let held = allocation_counter::measure(|| result = Some(read())).bytes_max;
    let most = floor + FACTOR * length as u64;
    assert!(held <= most, "{length} bytes of input made the reader hold {held} bytes");
    result.expect("it has run")
}
