//! Cuts between two places, each in one direction: nftables on the receiving side, as a wire that lost the packet would.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use crate::net::{Place, enter};
use crate::shell::run_with_input;
use crate::trouble::Trouble;

/// How a direction is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cut {
    /// Packets vanish.
    Drop,
    /// TCP is answered with a reset, as by a firewall or a host whose process is gone.
    Reset,
}

/// All cuts of a world: each receiver's table is written anew, whole, with every change, so it never drifts.
#[derive(Debug, Default)]
pub struct Cuts {
    by_receiver: BTreeMap<Place, BTreeSet<(Ipv4Addr, Cut)>>,
}

impl Cuts {
    /// Cuts what `from` sends to `to`; the other direction stays. `from` is any address that `to` sees.
    ///
    /// # Errors
    /// Without `nft`: [`Trouble::Skip`].
    pub fn cut(&mut self, from: Ipv4Addr, to: Place, how: Cut) -> Result<(), Trouble> {
        let cuts = self.by_receiver.entry(to).or_default();
        cuts.insert((from, how));
        apply(to, cuts)
    }

    /// Heals that direction.
    ///
    /// # Errors
    /// As [`Cuts::cut`].
    pub fn heal(&mut self, from: Ipv4Addr, to: Place) -> Result<(), Trouble> {
        let cuts = self.by_receiver.entry(to).or_default();
        cuts.retain(|(address, _)| *address != from);
        apply(to, cuts)
    }

    /// Heals everything.
    ///
    /// # Errors
    /// As [`Cuts::cut`].
    pub fn heal_all(&mut self) -> Result<(), Trouble> {
        for (to, _) in std::mem::take(&mut self.by_receiver) {
            apply(to, &BTreeSet::new())?;
        }
        Ok(())
    }
}

fn apply(to: Place, cuts: &BTreeSet<(Ipv4Addr, Cut)>) -> Result<(), Trouble> {
    let rules = table(cuts);
    enter(to, || run_with_input("nft", &["-f", "-"], &rules).map(|_| ()))
}

/// The whole table; `nft -f` applies it at once or not at all.
fn table(cuts: &BTreeSet<(Ipv4Addr, Cut)>) -> String {
    let mut text = String::from("table ip mlive {}\ndelete table ip mlive\n");
    if cuts.is_empty() {
        return text;
    }
    text.push_str("table ip mlive {\n chain in {\n  type filter hook input priority 0; policy accept;\n");
    for (from, how) in cuts {
        let _ = match how {
            Cut::Drop => writeln!(text, "  ip saddr {from} drop"),
            // A reset is never answered by one; the answer to the other direction's must get through.
            Cut::Reset => writeln!(
                text,
                "  ip saddr {from} tcp flags & rst == 0 reject with tcp reset\n  ip saddr {from} meta l4proto != tcp drop"
            ),
        };
    }
    text.push_str(" }\n}\n");
    text
}
