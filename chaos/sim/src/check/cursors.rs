//! Law 6, as far as the cores know it: a consumer that reads from its cursor, at whatever node of whatever region, is
//! given each lane's events in order, without a gap and each once.

use std::collections::BTreeMap;

use meridian_storage::Frame;
use meridian_types::{Lane, Offset};

/// How far each consumer is.
#[derive(Debug, Default)]
pub struct Cursors {
    at: BTreeMap<(usize, Lane), Offset>,
    pub delivered: u64,
}

impl Cursors {
    pub fn of(&self, consumer: usize, lane: Lane) -> Offset {
        self.at.get(&(consumer, lane)).copied().unwrap_or_default()
    }

    /// What a node gave for the cursor.
    pub fn given(
        &mut self,
        consumer: usize,
        lane: Lane,
        frames: &[Frame],
        end: Offset,
    ) -> Result<(), String> {
        let next = self.at.entry((consumer, lane)).or_default();
        for frame in frames {
            let header = &frame.header;
            // Consumers stop between batches alone.
            if header.lane() != lane || header.base_offset != *next {
                return Err(format!(
                    "consumer {consumer} asked {lane} from {next}, and was given {} of {}",
                    header.base_offset,
                    header.lane()
                ));
            }
            *next = header.next_offset();
            self.delivered += u64::from(header.events);
        }
        if !frames.is_empty() && *next > end {
            return Err(format!("consumer {consumer} was given {lane} up to {next}, which ends at {end}"));
        }
        Ok(())
    }
}
