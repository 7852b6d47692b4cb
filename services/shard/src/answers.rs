//! Who waits for an answer of a shard, by number.

use std::collections::VecDeque;

use meridian_types::Seq;
use tokio::sync::oneshot;

use crate::task::Reply;
use crate::{Reject, RequestId};

/// Places of answered requests that are held beside those that wait, at most.
const ANSWERED: usize = 1024;

/// Who waits.
pub(crate) enum Answer {
    Publish(Box<dyn Reply>),
    Read(oneshot::Sender<Result<Seq, Reject>>),
}

/// Those who wait, by number: answered in about the order in which they came.
#[derive(Default)]
pub(crate) struct Answers {
    next: u64,
    /// In the order of their numbers; none: answered before one that came earlier.
    waiting: VecDeque<(RequestId, Option<Answer>)>,
    unanswered: usize,
}

impl Answers {
    /// One more.
    pub fn add(&mut self, answer: Answer) -> RequestId {
        let request = RequestId(self.next);
        self.next += 1;
        self.waiting.push_back((request, Some(answer)));
        self.unanswered += 1;
        request
    }

    /// Who waits for this, once.
    pub fn take(&mut self, request: RequestId) -> Option<Answer> {
        let is_before = |(other, _): &(RequestId, Option<Answer>)| other.0 < request.0;
        let at = match self.waiting.front()? {
            (first, _) if *first == request => 0,
            _ => self.waiting.partition_point(is_before),
        };
        let (_, answer) = self.waiting.get_mut(at).filter(|(found, _)| *found == request)?;
        let answer = answer.take()?;
        self.unanswered -= 1;
        while self.waiting.pop_front_if(|(_, first)| first.is_none()).is_some() {}
        // One that waits for long is not to hold the places of all that were answered behind it.
        if self.waiting.len() > 2 * self.unanswered + ANSWERED {
            self.waiting.retain(|(_, answer)| answer.is_some());
        }
        Some(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answered_take_no_room_behind_one_that_waits() {
        let (mut answers, (first, _waits)) = (Answers::default(), oneshot::channel());
        let first = answers.add(Answer::Read(first));
        for _ in 0..100_000 {
            let (reply, _) = oneshot::channel();
            let request = answers.add(Answer::Publish(Box::new(reply)));
            assert!(answers.take(request).is_some() && answers.take(request).is_none());
        }
        assert!(answers.waiting.len() < 5_000, "{}", answers.waiting.len());
        assert!(answers.take(first).is_some() && answers.waiting.is_empty());
    }
}
