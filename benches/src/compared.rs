//! A region of three nodes beside one of a single node: the same load in alternation, so that a slow minute of the machine
//! meets both.

use std::path::Path;

use crate::error::BenchError;
use crate::measure::{Outcome, measure};
use crate::plan::{COMPARED, Load, Row, Spans, World};
use crate::text::{Table, count, mib};
use crate::world;

/// One load, in turns: each time on one node, then on three.
#[derive(Clone, Debug)]
pub struct Compared {
    /// Which.
    pub load: Load,
    /// Turn by turn.
    pub turns: Vec<[Outcome; 2]>,
}

impl Compared {
    /// What three nodes publish of what one does, turn by turn.
    fn ratios(&self) -> Vec<f64> {
        self.turns.iter().map(|[one, three]| three.rate / one.rate.max(1.0)).collect()
    }
}

/// Starts each world anew for every turn.
pub async fn compare(binary: &Path, dir: &Path, spans: Spans) -> Result<Vec<Compared>, BenchError> {
    let mut all = COMPARED.map(|load| Compared { load, turns: Vec::new() });
    for turn in 1..=spans.rounds {
        let mut outcomes = Vec::new();
        for world in [World::Alone, World::Trio] {
            eprintln!("starting world {}, turn {turn} of {}", world.name(), spans.rounds);
            let running = world::World::start(binary, world, dir.join(world.name())).await?;
            for load in COMPARED {
                let outcome = Box::pin(measure(&running, Row { world, load }, spans)).await?;
                eprintln!("{}: {} events/s", outcome.row.name(), count(outcome.rate.round() as u64));
                outcomes.push(outcome);
            }
            running.end().await?;
        }
        let three = outcomes.split_off(COMPARED.len());
        for ((compared, one), three) in all.iter_mut().zip(outcomes).zip(three) {
            compared.turns.push([one, three]);
        }
    }
    Ok(all.into())
}

/// The page's part.
pub fn render(all: &[Compared]) -> String {
    let mut text = String::from("## Three nodes beside one\n\n");
    text += "A region of three nodes, each event on stable storage on two of them at least before it is acknowledged, and\n";
    text += "in the end on all three, beside a region of one node: the same load on the same cores and the same disk, in\n";
    text += "alternation. *Ratio*: events a second of three nodes to those of one, turn by turn. *Cores*: what the servers\n";
    text += "took, and what publisher and reader took, of the machine's.\n\n";
    let heads = [
        "load",
        "turn",
        "one node events/s",
        "MiB/s",
        "cores",
        "three nodes events/s",
        "MiB/s",
        "cores",
        "ratio",
    ];
    let mut table = Table::new(&heads);
    for compared in all {
        for (turn, ([one, three], ratio)) in compared.turns.iter().zip(compared.ratios()).enumerate() {
            let mut cells = vec![compared.load.words(), (turn + 1).to_string()];
            for outcome in [one, three] {
                cells.push(count(outcome.rate.round() as u64));
                cells.push(mib(outcome.rate * crate::plan::VALUE_BYTES as f64));
                cells.push(cores(outcome));
            }
            cells.push(format!("{ratio:.2}"));
            table.row(cells);
        }
    }
    text += &table.end();
    for compared in all {
        let mut ratios = compared.ratios();
        ratios.sort_by(f64::total_cmp);
        if let (Some(least), Some(most)) = (ratios.first(), ratios.last()) {
            let median = ratios[ratios.len() / 2];
            text += &format!(
                "{}: median {median:.2}, least {least:.2}, most {most:.2}.\n",
                compared.load.words()
            );
        }
    }
    text.push('\n');
    text
}

/// Servers' and own CPU seconds for each second of the row.
fn cores(outcome: &Outcome) -> String {
    let seconds = outcome.usage.took.as_secs_f64().max(f64::MIN_POSITIVE);
    let servers: f64 = outcome.usage.nodes.iter().map(|(_, seconds)| seconds).sum();
    format!("{:.2} + {:.2}", servers / seconds, outcome.usage.own / seconds)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::measure::tests::outcome;

    #[test]
    fn ratios_are_turn_by_turn() {
        let turn = |rate: f64| {
            let [mut one, mut three] = [World::Alone, World::Trio].map(|world| outcome(world, Load::SdkMax));
            (one.rate, three.rate) = (1000.0, rate);
            one.usage.took = Duration::from_secs(10);
            three.usage.took = Duration::from_secs(5);
            [one, three]
        };
        let compared = Compared { load: Load::SdkMax, turns: vec![turn(500.0), turn(700.0), turn(600.0)] };
        let page = render(&[compared]);
        let rows: Vec<&str> = page.lines().filter(|line| line.contains("| 2 |")).collect();
        assert_eq!(
            rows,
            [
                "| SDK, batches by its defaults | 2 | 1,000 | 1.0 | 0.20 + 0.10 | 700 | 0.7 | 0.40 + 0.20 | 0.70 |"
            ]
        );
        assert!(page.contains("SDK, batches by its defaults: median 0.60, least 0.50, most 0.70."), "{page}");
    }
}
