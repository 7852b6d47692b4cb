//! Disks that fail as disks do: one that loses power, one that is small, and bits that flip.

mod flip;
mod power;
mod small;

pub use flip::{Words, cut_end, find_words, flip_bit, flip_bit_at, garble};
pub use power::{Loss, PowerFs, Release};
pub use small::SmallDisk;
