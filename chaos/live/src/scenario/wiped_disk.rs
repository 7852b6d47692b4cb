//! Fault 16: a node comes back under its old id with an empty disk, and then with a newly formatted one. It is refused.

use std::time::{Duration, Instant};

use crate::record::Load;
use crate::scenario::{Outcome, Run, Stage};
use crate::trouble::{Context as _, Trouble};
use crate::world::Plan;

/// How long a refused node may try, and must not serve.
const WATCHED: Duration = Duration::from_secs(12);

/// Runs it.
pub fn run(run: Run) -> Outcome {
    Stage::play(run, Plan::default(), Load::default(), |stage| {
        for victim in 0..run.rounds(3, 1) as usize {
            stage.wait_acks(30)?;
            stage.world.kill(&[victim])?;
            let (data, name) = (stage.world.node(victim).data(), stage.world.node(victim).name.clone());
            let aside = data.with_extension("aside");
            std::fs::rename(&data, &aside).context(data.display())?;
            for formatted in [false, true] {
                std::fs::create_dir_all(&data).context(data.display())?;
                if formatted {
                    stage.world.format(victim)?;
                }
                stage.fault(format!("{name} starts on a disk that is wiped, formatted: {formatted}"));
                is_refused(stage, victim)?;
                std::fs::remove_dir_all(&data).context(data.display())?;
            }
            std::fs::rename(&aside, &data).context(data.display())?;
            stage.step(format!("{name} has its own disk again"));
            stage.start_again(&[victim])?;
        }
        Ok(())
    })
}

/// It ends, or it stays and serves nothing.
fn is_refused(stage: &mut Stage, victim: usize) -> Result<(), Trouble> {
    stage.world.launch(victim)?;
    let until = Instant::now() + WATCHED;
    while Instant::now() < until && stage.world.node_mut(victim).runs() {
        if matches!(stage.world.get(victim, "/readyz"), Ok((200, _))) {
            let name = &stage.world.node(victim).name;
            return Err(Trouble::broken(format!("{name} serves under its old id with another disk")));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    stage.step(format!(
        "it was refused ({:?}): {}",
        stage.world.node(victim).last_exit(),
        stage.world.node(victim).log_tail().lines().last().unwrap_or_default()
    ));
    stage.world.kill(&[victim])
}
