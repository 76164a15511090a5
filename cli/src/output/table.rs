//! Aligned columns for people. The last column is never padded.

use crate::terminal::{Lines, printable};

/// Rows below a heading.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(heading: &[&str]) -> Self {
        Table {
            rows: vec![heading.iter().map(|cell| (*cell).to_owned()).collect()],
        }
    }

    /// Rows without a heading: names and values.
    pub(crate) fn plain() -> Self {
        Table { rows: Vec::new() }
    }

    /// Adds a row; foreign text is made safe to print.
    pub(crate) fn row<C: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = C>) {
        self.rows.push(
            cells
                .into_iter()
                .map(|cell| match printable(cell.as_ref(), Lines::Join) {
                    cell if cell.is_empty() => "-".to_owned(),
                    cell => cell,
                })
                .collect(),
        );
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                self.rows
                    .iter()
                    .filter_map(|row| row.get(column))
                    .map(|cell| cell.chars().count())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        for row in &self.rows {
            for (column, cell) in row.iter().enumerate() {
                if column + 1 == row.len() {
                    writeln!(f, "{cell}")?;
                } else {
                    write!(f, "{cell:<width$}  ", width = widths[column])?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_the_last_is_not_padded() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.row(["a-long-name", "running"]);
        table.row(["b", ""]);
        assert_eq!(
            table.to_string(),
            "NAME         STATE\na-long-name  running\nb            -\n"
        );
    }
}
