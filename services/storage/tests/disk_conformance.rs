//! One suite for every disk: the simulated twin does what the real one does.

use std::io::ErrorKind;
use std::path::Path;

use meridian_storage::{BLOCK, Disk, RealDisk, SimDisk};

fn conforms(disk: &dyn Disk) {
    assert!(disk.list().unwrap().is_empty());
    let kind = |result: std::io::Result<()>| result.map_err(|error| error.kind());
    assert_eq!(disk.open("none").map(drop).map_err(|error| error.kind()), Err(ErrorKind::NotFound));
    assert_eq!(kind(disk.remove("none")), Err(ErrorKind::NotFound));
    assert_eq!(kind(disk.rename("none", "other")), Err(ErrorKind::NotFound));

    let file = disk.create("one.part").unwrap();
    assert!(file.is_empty().unwrap());
    let bytes: Vec<u8> = (0..4 * BLOCK).map(|i| (i / 7) as u8).collect();
    file.write_at(&bytes, 0).unwrap();
    file.write_at(b"in the middle", 5000).unwrap();
    file.sync_data().unwrap();
    let mut wanted = bytes;
    wanted[5000..5013].copy_from_slice(b"in the middle");
    assert_eq!(file.len().unwrap(), wanted.len() as u64);
    // Aligned or not, past the page cache or not.
    for (at, len) in [(0, 4 * BLOCK), (4096, 4096), (1, 1), (4990, 40), (8191, 2), (16000, 384)] {
        let mut read = vec![0; len];
        file.read_at(&mut read, at as u64).unwrap();
        assert_eq!(read, wanted[at..at + len]);
        read.fill(0);
        file.read_at_uncached(&mut read, at as u64).unwrap();
        assert_eq!(read, wanted[at..at + len]);
    }
    for at in [16380u64, 16384, 1 << 40] {
        let mut read = [0; 10];
        assert_eq!(kind(file.read_at(&mut read, at)), Err(ErrorKind::UnexpectedEof), "{at}");
        assert_eq!(kind(file.read_at_uncached(&mut read, at)), Err(ErrorKind::UnexpectedEof), "{at}");
    }

    // A rename replaces; what was open stays what it was.
    disk.create("one").unwrap().write_at(b"old", 0).unwrap();
    disk.rename("one.part", "one").unwrap();
    disk.sync_dir().unwrap();
    assert_eq!(disk.list().unwrap(), ["one"]);
    let mut read = [0; 13];
    disk.open("one").unwrap().read_at(&mut read, 5000).unwrap();
    assert_eq!(&read, b"in the middle");
    file.read_at(&mut read, 5000).unwrap();
    assert_eq!(&read, b"in the middle");

    // Creating again empties; writing past the end fills with zeros.
    let file = disk.create("one").unwrap();
    assert_eq!(file.len().unwrap(), 0);
    file.write_at(b"x", 9).unwrap();
    let mut read = [1; 10];
    file.read_at(&mut read, 0).unwrap();
    assert_eq!(&read, b"\0\0\0\0\0\0\0\0\0x");
    assert!(disk.available().unwrap() > 0);
    disk.remove("one").unwrap();
    disk.sync_dir().unwrap();
    assert!(disk.list().unwrap().is_empty());
}

/// Who reads a file sees what is written past the page cache, also where it has read there before.
fn written_uncached_is_read(disk: &dyn Disk) {
    let raw = vec![7u8; 5 * BLOCK];
    let start = raw.as_ptr().align_offset(BLOCK);
    let blocks = &raw[start..start + 2 * BLOCK];
    let reader = disk.create("two").unwrap();
    reader.write_at(&vec![1; 16 * BLOCK], 0).unwrap();
    assert_eq!(disk.open_uncached("none").map(drop).map_err(|error| error.kind()), Err(ErrorKind::NotFound));
    let writer = disk.open_uncached("two").unwrap();
    let mut read = vec![0; 16 * BLOCK];
    let mut wanted = vec![1; 16 * BLOCK];
    for at in [0, 3, 7, 14] {
        reader.read_at(&mut read, 0).unwrap();
        assert_eq!(read, wanted);
        writer.write_at(blocks, (at * BLOCK) as u64).unwrap();
        writer.sync_data().unwrap();
        wanted[at * BLOCK..(at + 2) * BLOCK].fill(7);
    }
    // What is not aligned is written all the same.
    writer.write_at(b"here", 5001).unwrap();
    wanted[5001..5005].copy_from_slice(b"here");
    for file in [&reader, &writer] {
        file.read_at(&mut read, 0).unwrap();
        assert_eq!(read, wanted);
        file.read_at_uncached(&mut read, 0).unwrap();
        assert_eq!(read, wanted);
    }
    disk.remove("two").unwrap();
}

#[test]
fn the_simulated_disk() {
    let disk = SimDisk::new(1);
    conforms(&disk);
    written_uncached_is_read(&disk);
}

#[test]
fn the_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(dir.path().join("made")).unwrap();
    conforms(&disk);
    written_uncached_is_read(&disk);
}

/// A file system in memory, which has no disk to read past a cache from; whether it takes such reads and writes all the same depends on
/// the kernel.
#[test]
fn the_real_disk_without_direct_io() {
    let dir =
        if Path::new("/dev/shm").is_dir() { tempfile::tempdir_in("/dev/shm") } else { tempfile::tempdir() };
    let dir = dir.unwrap();
    let disk = RealDisk::open(dir.path()).unwrap();
    conforms(&disk);
    written_uncached_is_read(&disk);
}

#[test]
fn a_folder_has_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let first = RealDisk::open(dir.path()).unwrap();
    let second = RealDisk::open(dir.path()).map(drop).map_err(|error| error.kind());
    assert_eq!(second, Err(ErrorKind::WouldBlock));
    drop(first);
    RealDisk::open(dir.path()).unwrap();
}
