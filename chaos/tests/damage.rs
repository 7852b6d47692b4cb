//! One byte flipped in one region's volume: `verify` reads what is on the disk, and says where and in which region.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use meridian_chaos::{Report, Setup, World};

const STREAM: &str = "flipped";
const WITHIN: Duration = Duration::from_secs(30);
const EVENTS: u64 = 400;
const HIT: u64 = 250;

fn line(number: u64) -> String {
    format!(r#"{{"number":{number},"marker":"event-{number}-of-the-damage-test"}}"#)
}

/// Where the volume's files hold these bytes.
fn places(folder: &Path, bytes: &[u8]) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder.join("volume")).expect("a node has a volume") {
        let path = entry.expect("an entry").path();
        let content = match std::fs::read(&path) {
            Ok(content) => content,
            // One that is being made ready for later has just got its name; there is nothing in it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => panic!("{} cannot be read: {error}", path.display()),
        };
        let hits = content.windows(bytes.len()).enumerate().filter(|(_, window)| *window == bytes);
        found.extend(hits.map(|(at, _)| (path.clone(), at as u64)));
    }
    found
}

fn flip(place: &(PathBuf, u64)) {
    let file = OpenOptions::new().read(true).write(true).open(&place.0).expect("a file of the volume");
    let mut byte = [0];
    file.read_exact_at(&mut byte, place.1).expect("it holds the byte");
    file.write_all_at(&[byte[0] ^ 0x20], place.1).expect("it can be written");
    file.sync_all().expect("it can be synced");
}

/// The damaged copy is named, with the frame that holds the event; the others agree.
fn names_the_damage(report: &Report) {
    assert!(!report.agree);
    let damaged = report.copy(0, "us", "eu");
    assert!(matches!(damaged.status.as_str(), "damaged" | "differs"), "{report:#?}");
    let at = damaged.damaged_at.or(damaged.differs_at).expect("it says where");
    // A frame holds some ten events; the first offset of the one that is hit is named.
    assert!(at <= HIT && HIT < at + 50, "offset {at} is named, {HIT} was hit: {report:#?}");
    let (us, ap) = (report.copy(0, "us", "us"), report.copy(0, "us", "ap"));
    assert!(us.status == "ok" && ap.status == "ok" && us.digest == ap.digest, "{report:#?}");
    for lane in report.lanes.iter().filter(|lane| lane.partition != 0 || lane.origin != "us") {
        assert!(lane.agree, "{lane:?}");
    }
}

#[test]
fn verify_finds_one_flipped_byte_and_says_where() {
    let mut world = World::start(Setup::default());
    world.create_stream(STREAM, 1);
    let lines: Vec<String> = (0..EVENTS).map(line).collect();
    // Not compressed, so that the bytes can be found; in many frames, so that one can be named.
    world.publish("us", STREAM, &lines, &["--codec", "none", "--batch-bytes", "1KiB"]);
    world.publish("eu", STREAM, &lines[..10], &[]);
    assert_eq!(world.agree(STREAM, WITHIN).events, EVENTS + 10);

    let text = line(HIT);
    let found = places(world.node_folder("eu"), text.as_bytes());
    let [place] = &found[..] else { panic!("event {HIT} should be in one place of the volume: {found:?}") };
    flip(place);
    let (code, report) = world.verify(STREAM);
    assert_eq!(code, Some(1));
    names_the_damage(&report);
    let said = world.cli(&["verify", STREAM]);
    assert_eq!(said.code, Some(1));
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("region eu") && said.contains("offset"), "it is said for people too:\n{said}");

    // Also in the next run, and also after a run that was not ended in order.
    for ending in [World::terminate, World::kill9] {
        ending(&mut world, "eu");
        world.start_again("eu");
        let (code, report) = world.verify(STREAM);
        assert_eq!(code, Some(1));
        names_the_damage(&report);
    }

    // It was that byte and nothing else.
    flip(place);
    assert_eq!(world.agree(STREAM, WITHIN).events, EVENTS + 10);
}
