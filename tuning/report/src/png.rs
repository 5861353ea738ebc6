//! Plots as pictures.

use resvg::{tiny_skia, usvg};

/// Why a plot did not become a picture.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// The SVG is not what this crate writes.
    #[error("the plot cannot be drawn")]
    Svg(#[from] Box<usvg::Error>),
    /// It is empty, or too large to hold.
    #[error(
        "a plot of {width} by {height} pixels cannot be drawn; expected 1 to {PIXELS_MAX} each way"
    )]
    Size {
        /// Pixels across.
        width: f32,
        /// Pixels down.
        height: f32,
    },
    /// The picture could not be written.
    #[error("the picture cannot be written: {0}")]
    Encode(String),
}

/// Pixels of one side of a picture; 64 MB for a square, more than any plot here needs.
const PIXELS_MAX: u32 = 4_096;
/// Pixels of a picture for one of a plot, so that it is sharp on paper.
const SCALE: f32 = 2.0;

/// Draws an SVG whose text is outlines (see [`Lettering::Outlines`](crate::Lettering)) as PNG.
///
/// # Errors
/// [`PictureError`].
pub fn png(svg: &str) -> Result<Vec<u8>, PictureError> {
    let tree = usvg::Tree::from_str(svg, &usvg::Options::default()).map_err(Box::new)?;
    let (width, height) = (tree.size().width() * SCALE, tree.size().height() * SCALE);
    let fits = |side: f32| side >= 1.0 && side <= PIXELS_MAX as f32;
    let pixels = (fits(width) && fits(height))
        .then(|| tiny_skia::Pixmap::new(width.ceil() as u32, height.ceil() as u32))
        .flatten();
    let mut pixels = pixels.ok_or(PictureError::Size { width, height })?;
    let scale = tiny_skia::Transform::from_scale(SCALE, SCALE);
    resvg::render(&tree, scale, &mut pixels.as_mut());
    pixels.encode_png().map_err(|e| PictureError::Encode(e.to_string()))
}
