//! Tables for reports, CSV files and Markdown.

use std::fmt::Write;
use std::path::Path;

use crate::{Error, Result, write_atomic};

/// One entry of a table.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Nothing; drawn as a dash, and empty in CSV.
    Missing,
    /// Words.
    Text(String),
    /// A whole number.
    Integer(i128),
    /// A number, rounded to some decimals in reports and Markdown. CSV has every digit.
    Number {
        /// The number.
        value: f64,
        /// Digits after the point, at most 17.
        decimals: usize,
    },
}

impl Cell {
    /// A number with this many decimals.
    pub fn number(value: f64, decimals: usize) -> Self {
        Cell::Number { value, decimals }
    }

    /// As a person reads it.
    pub(crate) fn shown(&self) -> String {
        match self {
            Cell::Missing => "–".to_owned(),
            Cell::Text(text) => text.clone(),
            Cell::Integer(value) => value.to_string(),
            Cell::Number { value, decimals } => format!("{value:.*}", (*decimals).min(17)),
        }
    }

    /// As a program reads it.
    fn exact(&self) -> String {
        match self {
            Cell::Missing => String::new(),
            Cell::Number { value, .. } => value.to_string(),
            other => other.shown(),
        }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Cell::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Cell::Text(text)
    }
}

macro_rules! integer_cells {
    ($($integer:ty),*) => {$(
        impl From<$integer> for Cell {
            fn from(value: $integer) -> Self {
                Cell::Integer(value as i128)
            }
        }
    )*};
}

integer_cells!(i32, i64, u32, u64, usize);

/// Rows under named columns.
///
/// ```
/// use xdiff_viz::{Cell, Table};
///
/// let mut table = Table::new(["method", "AUC", "n"]);
/// table.push([Cell::from("DF-RISE"), Cell::number(0.31274, 3), Cell::from(200)])?;
/// table.push([Cell::from("a|b"), Cell::Missing, Cell::from(7)])?;
/// assert_eq!(table.to_csv(), "method,AUC,n\nDF-RISE,0.31274,200\na|b,,7\n");
/// assert_eq!(
///     table.to_markdown(),
///     "| method | AUC | n |\n| --- | ---: | ---: |\n| DF-RISE | 0.313 | 200 |\n| a\\|b | – | 7 |\n"
/// );
/// # Ok::<(), xdiff_viz::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table without rows.
    pub fn new<S: Into<String>>(columns: impl IntoIterator<Item = S>) -> Self {
        Table { columns: columns.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] unless it has one cell for each column.
    pub fn push(&mut self, row: impl IntoIterator<Item = Cell>) -> Result<()> {
        let row: Vec<Cell> = row.into_iter().collect();
        if row.len() != self.columns.len() {
            return Err(Error::shape(
                format!("row {} of the table", self.rows.len()),
                format!("{} cells ({})", self.columns.len(), self.columns.join(", ")),
                row.len().to_string(),
            ));
        }
        self.rows.push(row);
        Ok(())
    }

    /// The names of the columns.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The rows, each with one cell for each column.
    pub fn rows(&self) -> &[Vec<Cell>] {
        &self.rows
    }

    /// Whether a column has numbers only, so that it is aligned at the right.
    pub(crate) fn is_numeric(&self, column: usize) -> bool {
        let mut cells = self.rows.iter().filter_map(|row| row.get(column)).peekable();
        cells.peek().is_some() && cells.all(|cell| !matches!(cell, Cell::Text(_)))
    }

    /// Comma-separated values as in RFC 4180, with line feeds: entries with a comma, a quote or a
    /// line break stand in quotes, and quotes are doubled. Numbers have every digit.
    pub fn to_csv(&self) -> String {
        let line = |cells: Vec<String>| {
            let quoted: Vec<String> = cells.iter().map(|c| quoted(c)).collect();
            // An empty line would be no row.
            if quoted.len() == 1 && quoted[0].is_empty() {
                "\"\"\n".to_owned()
            } else {
                quoted.join(",") + "\n"
            }
        };
        let mut text = line(self.columns.clone());
        for row in &self.rows {
            text.push_str(&line(row.iter().map(Cell::exact).collect()));
        }
        text
    }

    /// A Markdown table. Characters that would be markup are escaped.
    pub fn to_markdown(&self) -> String {
        let mut text = String::new();
        let mut line = |cells: &mut dyn Iterator<Item = String>| {
            let cells: Vec<String> = cells.collect();
            // Writing to a string cannot fail.
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        };
        line(&mut self.columns.iter().map(|c| markdown_escaped(c)));
        line(
            &mut (0..self.columns.len()).map(|c| if self.is_numeric(c) { "---:" } else { "---" }.to_owned()),
        );
        for row in &self.rows {
            line(&mut row.iter().map(|cell| markdown_escaped(&cell.shown())));
        }
        text
    }

    /// Writes [`Table::to_csv`] to a file, in one step.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] with the path.
    pub fn save_csv(&self, path: impl AsRef<Path>) -> Result<()> {
        write_atomic(path, self.to_csv().as_bytes())
    }

    /// Writes [`Table::to_markdown`] to a file, in one step.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] with the path.
    pub fn save_markdown(&self, path: impl AsRef<Path>) -> Result<()> {
        write_atomic(path, self.to_markdown().as_bytes())
    }
}

fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) || text.starts_with(' ') || text.ends_with(' ') {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

fn markdown_escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.replace("\r\n", "\n").chars() {
        match c {
            '\n' | '\r' => escaped.push_str("<br>"),
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '\\' | '|' | '*' | '_' | '`' | '[' | ']' | '~' | '$' => escaped.extend(['\\', c]),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rows_of_another_length_are_errors() {
        let mut table = Table::new(["a", "b"]);
        assert!(matches!(table.push([Cell::Missing]), Err(Error::Shape { .. })));
        assert!(table.rows().is_empty());
        assert!(!table.is_numeric(0), "an empty column is not numeric");
    }

    #[test]
    fn csv_keeps_digits_and_markdown_rounds() {
        let mut table = Table::new(["x"]);
        for value in [0.1 + 0.2, f64::NAN, f64::NEG_INFINITY, 1e300] {
            table.push([Cell::number(value, 2)]).unwrap();
        }
        assert!(table.to_csv().starts_with("x\n0.30000000000000004\nNaN\n-inf\n1000"));
        assert!(table.to_markdown().contains("| 0.30 |\n| NaN |\n| -inf |"));
        assert_eq!(Cell::number(1.0, usize::MAX).shown().len(), 19);
    }

    #[test]
    fn markup_is_escaped() {
        let mut table = Table::new(["df_rise"]);
        table.push([Cell::from("<b>*1*|2\n3</b> & `x`")]).unwrap();
        let want = "| df\\_rise |\n| --- |\n| &lt;b>\\*1\\*\\|2<br>3&lt;/b> &amp; \\`x\\` |\n";
        assert_eq!(table.to_markdown(), want);
    }

    /// A reader of RFC 4180 for the property below.
    fn parse(csv: &str) -> Vec<Vec<String>> {
        let (mut rows, mut row, mut entry, mut inside) = (vec![], vec![], String::new(), false);
        let mut chars = csv.chars().peekable();
        while let Some(c) = chars.next() {
            match (c, inside) {
                ('"', true) if chars.next_if_eq(&'"').is_some() => entry.push('"'),
                ('"', _) => inside = !inside,
                (',', false) => row.push(std::mem::take(&mut entry)),
                ('\n', false) => {
                    row.push(std::mem::take(&mut entry));
                    rows.push(std::mem::take(&mut row));
                }
                (c, _) => entry.push(c),
            }
        }
        rows
    }

    proptest! {
        #[test]
        fn csv_reads_back(rows in proptest::collection::vec(proptest::collection::vec("[a, \"\n\r|é]{0,6}", 3), 0..5)) {
            let mut table = Table::new(["a", "b", "c"]);
            for row in &rows {
                table.push(row.iter().map(|text| Cell::from(text.as_str()))).unwrap();
            }
            let parsed = parse(&table.to_csv());
            prop_assert_eq!(&parsed[1..], &rows[..]);
        }

        #[test]
        fn markdown_has_one_line_for_each_row(texts in proptest::collection::vec("\\PC{0,20}|[|\n\\\\]{0,9}", 0..6)) {
            let mut table = Table::new(["a", "b"]);
            for text in &texts {
                table.push([Cell::from(text.as_str()), Cell::from(1)]).unwrap();
            }
            prop_assert_eq!(table.to_markdown().split('\n').count(), texts.len() + 3);
        }
    }
}
