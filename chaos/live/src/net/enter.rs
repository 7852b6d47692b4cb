//! Into a namespace: a thread's network is its own, and what it opens or starts stays in it.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::net::Place;
use crate::trouble::{Context as _, Trouble};

/// Moves this thread into a place's network, for good.
///
/// # Errors
/// There is no such namespace, or the thread may not enter it.
pub fn enter_for_good(place: Place) -> Result<(), Trouble> {
    let path = Path::new("/run/netns").join(place.namespace());
    let file = File::open(&path).context(path.display())?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).context(path.display())
}

/// Does something from within a place's network, on a thread of its own. Sockets and processes that it opens stay there.
///
/// # Errors
/// As [`enter_for_good`], and what it says itself.
pub fn enter<T: Send>(place: Place, work: impl FnOnce() -> Result<T, Trouble> + Send) -> Result<T, Trouble> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            enter_for_good(place)?;
            work()
        });
        thread.join().unwrap_or_else(|_| Err(Trouble::tool("a thread within a namespace panicked")))
    })
}
