//! The credit of one connection: what its source may still send, and what came and is not stored yet, are together no
//! more than what the connection was allotted.

use meridian_types::Timestamp;

/// See the module. `allotted` = given and not used + in hand + `owed`, at any time.
#[derive(Debug)]
pub(crate) struct Credit {
    /// What the connection has of the link's budget. While more than `wanted`, it falls with whatever becomes free.
    allotted: u64,
    /// What it shall have.
    wanted: u64,
    /// Credit to give, saved up so that it is worth a message. Below zero: what is in hand from an earlier connection is
    /// that much more than was allotted, so that much of what becomes free is not to be given.
    owed: i64,
    /// What the source has and has not used is to be asked back.
    withdraw: bool,
    /// Since when the source owes an answer to that, and of how much.
    asked: Option<(Timestamp, u64)>,
}

impl Credit {
    /// Of a connection that may have so much.
    pub fn new(bytes: u64) -> Self {
        Self { allotted: bytes, wanted: bytes, owed: signed(bytes), withdraw: false, asked: None }
    }

    /// What the connection has of the budget.
    pub fn allotted(&self) -> u64 {
        self.allotted
    }

    /// What it shall have.
    pub fn wanted(&self) -> u64 {
        self.wanted
    }

    /// Since when the source has not said what it gives back.
    pub fn unanswered(&self) -> Option<Timestamp> {
        self.asked.map(|(since, _)| since)
    }

    /// The clock has jumped back.
    pub fn forgive(&mut self, now: Timestamp) {
        self.asked = self.asked.map(|(since, bytes)| (since.min(now), bytes));
    }

    /// A connection has begun or ended: nothing is given on it. What is in hand still fills memory until it is durable.
    pub fn anew(&mut self, in_hand: u64) {
        self.owed = signed(self.allotted) - signed(in_hand);
        (self.withdraw, self.asked) = (false, None);
        self.settle();
    }

    /// So many bytes fill memory no more.
    pub fn freed(&mut self, bytes: u64) {
        self.owed += signed(bytes);
        self.settle();
    }

    /// The connection shall have so much from now on.
    pub fn allot(&mut self, bytes: u64) {
        self.wanted = bytes;
        if let Some(more @ 1..) = bytes.checked_sub(self.allotted) {
            self.allotted = bytes;
            self.owed += signed(more);
        }
        self.settle();
        self.withdraw = self.allotted > self.wanted;
    }

    /// What to ask back of the source, once.
    pub fn take_withdrawal(&mut self, now: Timestamp) -> Option<u64> {
        if !self.withdraw || self.asked.is_some() {
            return None;
        }
        self.withdraw = false;
        let excess = self.allotted - self.wanted;
        if excess == 0 {
            return None;
        }
        self.asked = Some((now, excess));
        Some(excess)
    }

    /// The source has given back so much. The rest it has used: that becomes free as it is stored.
    pub fn withdrawn(&mut self, bytes: u64) {
        if let Some((_, asked)) = self.asked.take() {
            // A peer's word.
            self.freed(bytes.min(asked));
        }
    }

    /// What to give now, if it is anything and at least so much.
    pub fn take_owed(&mut self, at_least: u64) -> Option<u64> {
        let owed = u64::try_from(self.owed).ok().filter(|owed| *owed > 0 && *owed >= at_least)?;
        self.owed = 0;
        Some(owed)
    }

    fn settle(&mut self) {
        let free = u64::try_from(self.owed).unwrap_or(0);
        let back = free.min(self.allotted.saturating_sub(self.wanted));
        self.allotted -= back;
        self.owed -= signed(back);
    }
}

/// Bytes in memory, or a setting of such: far below the limit.
fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1);

    #[test]
    fn what_is_free_goes_at_once_and_what_is_not_as_it_becomes_free() {
        let mut credit = Credit::new(100);
        assert_eq!(credit.take_owed(1), Some(100));
        credit.allot(40);
        assert_eq!(credit.allotted(), 100, "the source has all of it");
        assert_eq!((credit.take_withdrawal(NOW), credit.take_withdrawal(NOW)), (Some(60), None), "once");
        credit.withdrawn(25);
        assert_eq!(credit.allotted(), 75);
        // The source had used the rest.
        credit.freed(50);
        assert_eq!((credit.allotted(), credit.take_owed(1)), (40, Some(15)));
        assert_eq!(credit.take_withdrawal(NOW), None);
    }

    #[test]
    fn what_shall_be_more_again_meanwhile_is_given() {
        let mut credit = Credit::new(100);
        assert_eq!(credit.take_owed(1), Some(100));
        credit.allot(40);
        assert_eq!(credit.take_withdrawal(NOW), Some(60));
        credit.allot(100);
        credit.withdrawn(60);
        assert_eq!((credit.allotted(), credit.take_owed(1)), (100, Some(60)));
    }

    #[test]
    fn without_a_connection_all_but_what_is_in_hand_is_free() {
        let mut credit = Credit::new(100);
        assert_eq!(credit.take_owed(1), Some(100));
        credit.allot(0);
        credit.anew(30);
        assert_eq!((credit.allotted(), credit.unanswered()), (30, None));
        credit.freed(30);
        assert_eq!((credit.allotted(), credit.take_owed(1)), (0, None));
    }

    #[test]
    fn a_peer_that_gives_back_what_nobody_asked_for_gains_nothing() {
        let mut credit = Credit::new(100);
        assert_eq!(credit.take_owed(1), Some(100));
        credit.withdrawn(50);
        assert_eq!(credit.take_owed(1), None);
    }
}
