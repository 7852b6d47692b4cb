//! The disks as programs see them: mounted, written, robbed of power, filled.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use meridian_chaos_live::disk::{Loss, PowerFs, Release, SmallDisk};
use meridian_chaos_live::{Alone, or_skip, say};

const O_DIRECT: i32 = 0o40000;
const O_DSYNC: i32 = 0o10000;

/// In the order in which they are dropped last to first: the mount goes before its folder.
fn mounted(test: &str) -> Option<(Alone, tempfile::TempDir, PowerFs)> {
    let alone = or_skip(test, Alone::wait())?;
    let folder = tempfile::tempdir().unwrap();
    let mounted = PowerFs::mount(&folder.path().join("backing"), &folder.path().join("mount"));
    let mounted = or_skip(test, mounted)?;
    Some((alone, folder, mounted))
}

fn sync_folder(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

#[test]
fn power_loss_leaves_what_was_synced() {
    let Some((_alone, folder, disk)) = mounted("power loss") else { return };
    let (path, backing) = (disk.path().join("file"), folder.path().join("backing/file"));
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    sync_folder(disk.path());
    file.write_all_at(b"synced", 0).unwrap();
    file.sync_data().unwrap();
    file.write_all_at(b"not synced", 3000).unwrap();
    file.write_all_at(&[7; 10_000], 100_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 110_000);
    let mut seen = [0; 10];
    file.read_exact_at(&mut seen, 3000).unwrap();
    assert_eq!(&seen, b"not synced");
    let direct = OpenOptions::new().read(true).custom_flags(O_DIRECT).open(&path).unwrap();
    let mut block = vec![0; 4096];
    direct.read_exact_at(&mut block, 0).unwrap();
    assert_eq!(&block[3000..3010], b"not synced", "a direct read sees it too");
    assert_eq!(fs::read(&backing).unwrap(), b"synced", "and the disk does not");
    assert!(disk.unsynced_bytes("") > 10_000);
    drop((file, direct));

    disk.lose_power(Loss::All).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"synced");
    assert_eq!(disk.unsynced_bytes(""), 0);

    // What is written through needs no sync.
    let mut through = OpenOptions::new().append(true).custom_flags(O_DSYNC).open(&path).unwrap();
    through.write_all(b" at once").unwrap();
    drop(through);
    disk.lose_power(Loss::All).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"synced at once");
}

#[test]
fn names_are_durable_with_their_folder() {
    let Some((_alone, _folder, disk)) = mounted("names") else { return };
    let at = |name: &str| disk.path().join(name);
    fs::create_dir(at("d")).unwrap();
    sync_folder(disk.path());
    let write = |name: &str, text: &str| {
        let mut file = File::create(at(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.sync_all().unwrap();
    };
    write("d/kept", "old");
    sync_folder(&at("d"));
    write("d/new", "new");
    fs::rename(at("d/new"), at("d/kept")).unwrap();
    write("d/lost", "its bytes were synced, its name was not");
    let mut open = File::open(at("d/kept")).unwrap();
    fs::remove_file(at("d/kept")).unwrap();
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "new", "who has a removed file open reads on");
    drop(open);
    disk.lose_power(Loss::All).unwrap();
    assert_eq!(fs::read_to_string(at("d/kept")).unwrap(), "old");
    assert_eq!(fs::read_dir(at("d")).unwrap().count(), 1);
}

#[test]
fn syncs_fail_stand_still_and_are_let_go() {
    let Some((_alone, _folder, disk)) = mounted("syncs") else { return };
    let path = disk.path().join("volume-1");
    let file = File::create(&path).unwrap();
    sync_folder(disk.path());
    file.write_all_at(b"one", 0).unwrap();
    disk.fail_syncs("volume", 1);
    let failed = file.sync_data().unwrap_err();
    assert_eq!((failed.raw_os_error(), disk.failed_syncs()), (Some(5), 1));
    file.sync_data().unwrap();
    file.write_all_at(b"two", 4096).unwrap();
    file.sync_data().unwrap();

    disk.slow_syncs(Some(("volume", Duration::from_millis(200))));
    let begun = Instant::now();
    file.sync_data().unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(200));
    disk.slow_syncs(None);

    disk.hold_syncs("volume");
    file.write_all_at(b"three", 8192).unwrap();
    let held = std::thread::spawn({
        let file = file.try_clone().unwrap();
        move || file.sync_data()
    });
    let until = Instant::now() + Duration::from_secs(5);
    while disk.held_syncs() == 0 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(disk.held_syncs(), 1);
    assert_eq!(fs::metadata(&path).unwrap().len(), 8197, "everything else goes on");
    disk.release_syncs(Release::Abandon);
    held.join().unwrap().unwrap();
    drop(file);
    disk.lose_power(Loss::All).unwrap();
    let left = fs::read(&path).unwrap();
    assert_eq!((left.len(), &left[..3], &left[4096..]), (4099, &[0; 3][..], &b"two"[..]));
}

#[test]
fn a_small_disk_is_soon_full_and_relieved() {
    let Some(_alone) = or_skip("small disk", Alone::wait()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let made = SmallDisk::make(folder.path(), &folder.path().join("mount"), 32);
    let Some(disk) = or_skip("small disk", made) else { return };
    disk.fill(1 << 20).unwrap();
    let full = fs::write(disk.path().join("more"), vec![1; 4 << 20]).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    fs::remove_file(disk.path().join("more")).unwrap();
    disk.relieve().unwrap();
    fs::write(disk.path().join("more"), vec![1; 4 << 20]).unwrap();
    say(&format!("small disk: {} of 32 MiB are free in the end", disk.free().unwrap() >> 20));
}
