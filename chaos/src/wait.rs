//! Waiting for something, but not for ever.

use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Looks again and again until there is an answer.
///
/// # Panics
/// There is none in time; the panic says what was seen last.
#[track_caller]
pub fn until<T>(what: &str, within: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + within;
    loop {
        match look() {
            Ok(answer) => return answer,
            Err(last) if Instant::now() >= deadline => panic!("{what}: not within {within:?}; last: {last}"),
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_with_the_answer() {
        let mut looks = 0;
        let answer = until("three looks", Duration::from_secs(10), || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err("not yet".to_owned()) }
        });
        assert_eq!(answer, 3);
    }

    #[test]
    #[should_panic(expected = "last: nothing there")]
    fn or_says_what_was_seen_last() {
        until::<()>("nothing", Duration::from_millis(30), || Err("nothing there".to_owned()));
    }
}
