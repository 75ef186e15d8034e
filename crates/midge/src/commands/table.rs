//! Rows under headings, for people.
//!
//! Columns are as wide as the first rows need; a later row that needs more gets it and is out of line, so that a list of any
//! length needs little memory. What a client has chosen (ids, topics) is written without its control characters: those
//! would speak to the terminal.

use std::io::{self, Write};

/// Rows by which the widths are decided.
const ROWS_MEASURED: usize = 256;

/// No cell makes its column wider than this.
const WIDTH_MAX: usize = 48;

/// A heading, and on which side its cells stand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    heading: &'static str,
    right: bool,
}

/// A column of words.
pub(crate) const fn words(heading: &'static str) -> Column {
    Column { heading, right: false }
}

/// A column of numbers.
pub(crate) const fn numbers(heading: &'static str) -> Column {
    Column { heading, right: true }
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Table<const N: usize> {
    columns: [Column; N],
    waiting: Vec<[String; N]>,
    /// Known once the first rows are written.
    widths: Option<[usize; N]>,
}

impl<const N: usize> Table<N> {
    pub(crate) const fn new(columns: [Column; N]) -> Self {
        Self { columns, waiting: Vec::new(), widths: None }
    }

    /// # Errors
    /// When `out` cannot be written to.
    pub(crate) fn row(&mut self, cells: [String; N], out: &mut impl Write) -> io::Result<()> {
        let cells = cells.map(|cell| printable(&cell));
        if let Some(widths) = self.widths {
            return self.write(&cells, &widths, out);
        }
        self.waiting.push(cells);
        if self.waiting.len() >= ROWS_MEASURED { self.end(out) } else { Ok(()) }
    }

    /// Writes what waits for its width. Nothing at all if there were no rows.
    ///
    /// # Errors
    /// When `out` cannot be written to.
    pub(crate) fn end(&mut self, out: &mut impl Write) -> io::Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        if waiting.is_empty() {
            return Ok(());
        }
        let widths = std::array::from_fn(|at| {
            let cells = waiting.iter().map(|cells| width(&cells[at]).min(WIDTH_MAX));
            cells.max().unwrap_or(0).max(width(self.columns[at].heading))
        });
        self.widths = Some(widths);
        let headings = self.columns.map(|column| column.heading.to_owned());
        self.write(&headings, &widths, out)?;
        waiting.iter().try_for_each(|cells| self.write(cells, &widths, out))
    }

    fn write(
        &self,
        cells: &[String; N],
        widths: &[usize; N],
        out: &mut impl Write,
    ) -> io::Result<()> {
        let mut line = String::new();
        for ((cell, column), wanted) in cells.iter().zip(&self.columns).zip(widths) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            let gap = " ".repeat(wanted.saturating_sub(width(cell)));
            let (before, behind) = if column.right { (&*gap, "") } else { ("", &*gap) };
            line.extend([before, cell, behind]);
        }
        writeln!(out, "{}", line.trim_end())
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// A text without control characters: `\n`, `\u{1b}`.
pub(crate) fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for character in text.chars() {
        // Marks that turn the direction of what follows are no control characters to Rust, and as bad.
        let turns = matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if character.is_control() || turns {
            clean.extend(character.escape_default());
        } else {
            clean.push(character);
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(rows: &[[&str; 2]]) -> String {
        let mut table = Table::new([words("NAME"), numbers("N")]);
        let mut out = Vec::new();
        for row in rows {
            table.row(row.map(str::to_owned), &mut out).expect("memory");
        }
        table.end(&mut out).expect("memory");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn columns_are_as_wide_as_they_must() {
        assert_eq!(text(&[]), "");
        assert_eq!(
            text(&[["a", "1"], ["länger", "1000"], ["", "7"]]),
            "NAME       N\na          1\nlänger  1000\n           7\n"
        );
    }

    #[test]
    fn later_rows_may_stand_out() {
        let mut rows = vec![["a", "1"]; ROWS_MEASURED];
        rows.push(["a long one", "1"]);
        rows.push(["b", "2"]);
        let text = text(&rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), ROWS_MEASURED + 3);
        assert_eq!(lines[ROWS_MEASURED + 1..], ["a long one  1", "b     2"]);
    }

    #[test]
    fn clients_do_not_speak_to_the_terminal() {
        for (text, expected) in [
            ("plain ü", "plain ü"),
            ("\u{1b}[2J", "\\u{1b}[2J"),
            ("a\nb\t", "a\\nb\\t"),
            ("\u{202e}x", "\\u{202e}x"),
        ] {
            assert_eq!(printable(text), expected);
        }
    }
}
