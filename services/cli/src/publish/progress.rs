//! How far publishing is: a bar on a terminal, else a line every few seconds. On stderr.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::tally::Tally;
use crate::human;
use crate::reader::Input;

const LINE_EVERY: Duration = Duration::from_secs(5);

pub struct Progress {
    bar: Option<ProgressBar>,
    size: Option<u64>,
    position: Arc<AtomicU64>,
    begun: Instant,
    said: Instant,
}

impl Progress {
    pub fn new(input: &Input) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let (bar, template) = match input.size {
                Some(size) => (ProgressBar::new(size), "{elapsed_precise} [{wide_bar}] {percent:>3}% {msg}"),
                None => (ProgressBar::new_spinner(), "{elapsed_precise} {spinner} {msg}"),
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        });
        let now = Instant::now();
        Self { bar, size: input.size, position: Arc::clone(&input.position), begun: now, said: now }
    }

    pub fn show(&mut self, tally: &Tally, trouble: Option<&str>) {
        let events = tally.acknowledged();
        let rate = events as f64 / self.begun.elapsed().as_secs_f64().max(0.001);
        let mut message = format!("{}, {}/s", human::events(events), human::count(rate as u64));
        if let Some(trouble) = trouble {
            message += &format!(" (trying again: {trouble})");
        }
        let position = self.position.load(Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.set_position(position);
            bar.set_message(message);
        } else if self.said.elapsed() >= LINE_EVERY {
            self.said = Instant::now();
            match self.size.filter(|size| *size > 0) {
                Some(size) => eprintln!("acknowledged {message}; {}% read", position * 100 / size),
                None => eprintln!("acknowledged {message}"),
            }
        }
    }

    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
