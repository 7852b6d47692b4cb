//! Fault 5: a bit flips in, or the end is cut off, a file of placement's Raft group on one node. That node refuses to
//! start, the others serve, and nothing is deleted.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::RngExt as _;

use crate::disk::{cut_end, flip_bit};
use crate::record::Load;
use crate::scenario::quorum::plan;
use crate::scenario::{Outcome, Run, Stage};
use crate::shell::run as shell;
use crate::trouble::{Context as _, Trouble};
use crate::world::DiskKind;

/// What is damaged, in turn: the end of the file's path, and whether its end is cut off.
const DAMAGES: [(&str, bool); 4] = [("anchor", false), ("log", true), ("anchor", true), ("log", false)];
const ENDS_WITHIN: Duration = Duration::from_secs(20);
const BACK_WITHIN: Duration = Duration::from_secs(30);

/// Runs it.
pub fn run(run: Run) -> Outcome {
    Stage::play(run, plan(DiskKind::Plain), Load::default(), |stage| {
        let mut ends_badly = Vec::new();
        for round in 0..run.rounds(8, 2) as usize {
            stage.wait_well()?;
            let victim = round % 3;
            let (name, data) = (stage.world.node(victim).name.clone(), stage.world.node(victim).data());
            let since = stage.recorder.elapsed();
            stage.world.kill(&[victim])?;
            let (folder, aside) = (data.join("placement"), data.with_extension("aside"));
            shell("cp", &["-a", &folder.to_string_lossy(), &aside.to_string_lossy()])?;
            let (part, cut) = DAMAGES[round % DAMAGES.len()];
            let file =
                if part == "anchor" { folder.join("anchor") } else { newest_log(&folder.join("log"))? };
            let len = std::fs::metadata(&file).context(file.display())?.len();
            let how = if cut {
                let bytes = stage.rng.random_range(1..=len.min(64));
                cut_end(&file, bytes)?;
                format!("{bytes} bytes are cut off the end")
            } else {
                format!("a bit flips at {}", flip_bit(&file, &mut stage.rng)?)
            };
            let damaged = listing(&folder)?;
            stage.fault(format!("{name}: {how} of {} ({len} bytes)", file.display()));
            stage.world.launch(victim)?;
            let until = Instant::now() + ENDS_WITHIN;
            while Instant::now() < until && stage.world.node_mut(victim).runs() {
                if matches!(stage.world.get(victim, "/readyz"), Ok((200, _))) {
                    return Err(Trouble::broken(format!("{name} serves with a damaged {part}: {how}")));
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            if stage.world.node_mut(victim).runs() {
                return Err(Trouble::broken(format!("{name} does not end: {how} of its {part}")));
            }
            let (said, exit) = (stage.world.node(victim).log_tail(), stage.world.node(victim).last_exit());
            let why = said.lines().rfind(|line| line.contains("damaged") || line.contains("orrupt"));
            stage.step(format!("{exit:?}: {why:?}"));
            // Who finds that in a log has to know what to do: it ends on purpose, and says why.
            if why.is_none() || exit.is_none_or(|status| status.code().is_none()) {
                ends_badly.push(format!("{name}: {how} of its {part}: {exit:?}:\n{said}"));
            }
            let gone: Vec<PathBuf> = damaged
                .iter()
                .filter(|(path, len)| size(path) < *len)
                .map(|(path, _)| path.clone())
                .collect();
            if !gone.is_empty() {
                return Err(Trouble::broken(format!("{name} made less of {gone:?}")));
            }
            let stall = stage.wait_flows(since, BACK_WITHIN)?;
            stage.figure("the others serve", stall);
            std::fs::remove_dir_all(&folder).context(folder.display())?;
            std::fs::rename(&aside, &folder).context(folder.display())?;
            stage.step(format!("{name} has its own file again"));
            stage.start_again(&[victim])?;
        }
        if ends_badly.is_empty() { Ok(()) } else { Err(Trouble::broken(ends_badly.join("\n"))) }
    })
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Every file under a folder, and how long it is; but those that say nothing of what is stored.
fn listing(folder: &Path) -> Result<Vec<(PathBuf, u64)>, Trouble> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).context(folder.display())?.flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(listing(&path)?);
        } else if name == "anchor" || name.ends_with(".log") || name.ends_with(".sst") {
            found.push((path.clone(), size(&path)));
        }
    }
    Ok(found)
}

/// The write-ahead log of a RocksDB that holds something, the last one.
fn newest_log(folder: &Path) -> Result<PathBuf, Trouble> {
    let files = std::fs::read_dir(folder).context(folder.display())?.flatten().map(|entry| entry.path());
    let logs = files.filter(|path| path.extension().is_some_and(|end| end == "log") && size(path) > 0);
    logs.max().ok_or_else(|| Trouble::tool(format!("{} holds no log", folder.display())))
}
