//! A world comes up on every kind of disk.

use meridian_chaos_live::world::{DiskKind, Plan, World};
use meridian_chaos_live::{or_skip, say};

#[test]
fn a_world_runs_on_a_disk_that_can_lose_power() {
    let plan = Plan { disk: DiskKind::Power, clocks: false, ..Plan::default() };
    let begun = std::time::Instant::now();
    let Some(world) = or_skip("world", World::start(&plan)) else { return };
    let syncs: u64 = (0..world.nodes()).map(|index| world.node(index).power().unwrap().syncs()).sum();
    assert!(syncs > 0 && world.metric(0, "meridian_memory_bound_bytes", "").is_some());
    say(&format!("world: three regions ready after {:.1?}, {syncs} syncs", begun.elapsed()));
}
