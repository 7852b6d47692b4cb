//! Numbers and tables as they stand in the results. Pure.

use crate::latency::Quantiles;

/// `12,345`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Microseconds as milliseconds, to three digits.
pub fn ms(micros: u64) -> String {
    let ms = micros as f64 / 1000.0;
    match micros {
        0..10_000 => format!("{ms:.2}"),
        10_000..100_000 => format!("{ms:.1}"),
        _ => count(ms.round() as u64),
    }
}

/// `p50 / p99 / max`.
pub fn quantiles(times: &Quantiles) -> String {
    format!("{} / {} / {}", ms(times.p50), ms(times.p99), ms(times.max))
}

/// Bytes (or bytes a second) as MiB.
pub fn mib(bytes: f64) -> String {
    let mib = bytes / f64::from(1 << 20);
    if mib < 10.0 { format!("{mib:.1}") } else { count(mib.round() as u64) }
}

/// A table in Markdown. Every row has a cell for every head.
pub struct Table {
    text: String,
    columns: usize,
}

impl Table {
    /// With its heads. The first column is aligned left, the others right.
    pub fn new(heads: &[&str]) -> Self {
        let mut table = Self { text: String::new(), columns: heads.len() };
        table.row(heads.iter().map(|head| (*head).to_owned()).collect());
        let rules = (0..heads.len()).map(|at| if at == 0 { " --- |" } else { " ---: |" });
        table.text.push('|');
        table.text.extend(rules);
        table.text.push('\n');
        table
    }

    /// One more row.
    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.columns, "a row has a cell for each column");
        self.text.push('|');
        for cell in cells {
            self.text.push(' ');
            self.text.push_str(&cell);
            self.text.push_str(" |");
        }
        self.text.push('\n');
    }

    /// As text, with an empty line after it.
    pub fn end(mut self) -> String {
        self.text.push('\n');
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_at_a_glance() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([7, 1_234, 45_678, 1_234_567].map(ms), ["0.01", "1.23", "45.7", "1,235"]);
        assert_eq!([mib(1.5 * 1048576.0), mib(123.4 * 1048576.0)], ["1.5", "123"]);
        let times = Quantiles { p50: 1_000, p99: 20_000, max: 300_000, curve: vec![] };
        assert_eq!(quantiles(&times), "1.00 / 20.0 / 300");
    }

    #[test]
    fn a_table_is_markdown() {
        let mut table = Table::new(&["a", "b"]);
        table.row(vec!["x".to_owned(), "1".to_owned()]);
        assert_eq!(table.end(), "| a | b |\n| --- | ---: |\n| x | 1 |\n\n");
    }
}
