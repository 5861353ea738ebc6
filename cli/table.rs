//! Tables for people.

use std::io::Write;

use crate::failure::Result;

/// Prints rows under a header, columns padded to their widest cell.
pub(crate) fn print(out: &mut dyn Write, header: &[String], rows: &[Vec<String>]) -> Result<()> {
    for line in render(header, rows) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// The lines of a table.
pub(crate) fn render(header: &[String], rows: &[Vec<String>]) -> Vec<String> {
    let all: Vec<&[String]> =
        std::iter::once(header).chain(rows.iter().map(Vec::as_slice)).collect();
    let width = |column: usize| {
        all.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |row: &&[String]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned()
    };
    all.iter().map(line).collect()
}
