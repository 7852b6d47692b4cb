//! A progress bar and a line for each region on a terminal, else a line now and then.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use parking_lot::Mutex;

use crate::human;

const LINES_EVERY: Duration = Duration::from_secs(2);

/// What is on the screen.
pub struct Screen {
    bars: MultiProgress,
    terminal: bool,
    inner: Mutex<Option<Inner>>,
}

struct Inner {
    total: u64,
    acked: ProgressBar,
    regions: Vec<ProgressBar>,
    said: Instant,
}

impl Screen {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            bars: MultiProgress::new(),
            terminal: std::io::stderr().is_terminal(),
            inner: Mutex::new(None),
        }
    }

    /// A line that stays, above the bars.
    pub fn say(&self, text: impl AsRef<str>) {
        if self.terminal {
            // A screen that went away is no reason to stop.
            let _ = self.bars.println(text);
        } else {
            eprintln!("{}", text.as_ref());
        }
    }

    /// Shows the bars.
    pub fn begin(&self, total: u64, regions: &[&str]) {
        let style = |template: &str| {
            let style = ProgressStyle::with_template(template);
            style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
        };
        let acked = self.bars.add(ProgressBar::new(total));
        acked.set_style(style("{elapsed_precise} [{wide_bar}] {percent:>3}% {msg}"));
        let regions = regions.iter().map(|_| {
            let line = self.bars.add(ProgressBar::new_spinner());
            line.set_style(style("  {msg}"));
            line
        });
        let regions = regions.collect();
        *self.inner.lock() = Some(Inner { total, acked, regions, said: Instant::now() });
    }

    /// How many events were acknowledged, and a line for each region.
    pub fn show(&self, acked: u64, rows: Vec<String>) {
        let mut inner = self.inner.lock();
        let Some(inner) = inner.as_mut() else { return };
        let message = format!("{} acknowledged", human::events(acked));
        if self.terminal {
            inner.acked.set_position(acked);
            inner.acked.set_message(message);
            for (bar, row) in inner.regions.iter().zip(rows) {
                bar.set_message(row);
            }
        } else if inner.said.elapsed() >= LINES_EVERY {
            inner.said = Instant::now();
            eprintln!("{:>3}% {message}", acked * 100 / inner.total.max(1));
            for row in rows {
                eprintln!("      {row}");
            }
        }
    }

    /// Takes the bars away.
    pub fn finish(&self) {
        if let Some(inner) = self.inner.lock().take() {
            inner.acked.finish_and_clear();
            for bar in inner.regions {
                bar.finish_and_clear();
            }
        }
    }
}
