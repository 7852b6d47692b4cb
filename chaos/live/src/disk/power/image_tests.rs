//! The page cache against a model: a vector for what is seen, a vector for what was synced last.

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;

impl Durable for Vec<u8> {
    fn read(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        let from = self.get(at as usize..).unwrap_or_default();
        let len = from.len().min(buf.len());
        buf[..len].copy_from_slice(&from[..len]);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        if !bytes.is_empty() {
            let end = at as usize + bytes.len();
            self.resize(self.len().max(end), 0);
            self[at as usize..end].copy_from_slice(bytes);
        }
        Ok(())
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.resize(len as usize, 0);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write { at: u64, len: usize, byte: u8 },
    SetLen(u64),
    Sync,
    LosePower,
    Read { at: u64, len: usize },
}

fn step() -> impl Strategy<Value = Step> {
    const MOST: u64 = 5 * BLOCK;
    prop_oneof![
        4 => (0..MOST, 0..9000usize, 1..=255u8).prop_map(|(at, len, byte)| Step::Write { at, len, byte }),
        1 => (0..MOST).prop_map(Step::SetLen),
        1 => Just(Step::Sync),
        1 => Just(Step::LosePower),
        2 => (0..MOST, 0..9000usize).prop_map(|(at, len)| Step::Read { at, len }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn readers_see_the_newest_and_power_loss_leaves_the_last_sync(steps in prop::collection::vec(step(), 1..60)) {
        let (mut image, mut disk) = (Image::new(0), Vec::new());
        let (mut seen, mut synced): (Vec<u8>, Vec<u8>) = Default::default();
        for step in steps {
            match step {
                Step::Write { at, len, byte } => {
                    image.write(&disk, &vec![byte; len], at).unwrap();
                    if len > 0 {
                        let end = at as usize + len;
                        seen.resize(seen.len().max(end), 0);
                        seen[at as usize..end].fill(byte);
                    } else {
                        image.set_len(image.len().max(seen.len() as u64));
                        seen.resize(image.len() as usize, 0);
                    }
                }
                Step::SetLen(len) => {
                    image.set_len(len);
                    seen.resize(len as usize, 0);
                }
                Step::Sync => {
                    image.sync(&mut disk).unwrap();
                    synced.clone_from(&seen);
                    prop_assert!(image.is_synced() && disk == synced);
                }
                Step::LosePower => {
                    image.lose_power(&mut disk, Loss::<StdRng>::All).unwrap();
                    seen.clone_from(&synced);
                }
                Step::Read { at, len } => {
                    let end = seen.len().min(at as usize + len);
                    let wanted = seen.get(at as usize..end).unwrap_or_default();
                    prop_assert_eq!(image.read(&disk, at, len).unwrap(), wanted);
                }
            }
            prop_assert_eq!(image.len(), seen.len() as u64);
            prop_assert!(disk == synced, "only a sync changes the disk");
        }
        prop_assert_eq!(image.read(&disk, 0, 1 << 20).unwrap(), seen);
    }

    #[test]
    fn a_partial_loss_leaves_each_sector_old_or_new(seed in any::<u64>(), blocks in prop::collection::btree_set(0..16u64, 0..16)) {
        let (mut image, mut disk) = (Image::new(0), Vec::new());
        image.write(&disk, &vec![1; 10 * BLOCK as usize], 0).unwrap();
        image.sync(&mut disk).unwrap();
        for block in &blocks {
            image.write(&disk, &vec![2; BLOCK as usize], block * BLOCK).unwrap();
        }
        let longest = image.len() as usize;
        image.lose_power(&mut disk, Loss::Some(&mut StdRng::seed_from_u64(seed))).unwrap();
        prop_assert!(image.is_synced() && image.len() == disk.len() as u64);
        prop_assert!(disk.len() == longest || disk.len() == 10 * BLOCK as usize);
        for (number, sector) in disk.chunks(SECTOR).enumerate() {
            let at = (number * SECTOR) as u64;
            let written = blocks.contains(&(at / BLOCK));
            let old = if at < 10 * BLOCK { 1 } else { 0 };
            prop_assert!(sector.iter().all(|byte| *byte == old) || written && sector.iter().all(|byte| *byte == 2));
        }
    }
}

#[test]
fn a_failed_sync_is_seen_and_never_written() {
    let (mut image, mut disk) = (Image::new(0), Vec::new());
    image.write(&disk, b"old", 0).unwrap();
    image.sync(&mut disk).unwrap();
    image.write(&disk, b"new", 0).unwrap();
    image.fail_sync();
    assert_eq!(image.read(&disk, 0, 9).unwrap(), b"new");
    image.sync(&mut disk).unwrap();
    assert_eq!((disk.as_slice(), image.is_synced()), (&b"old"[..], false), "the next sync says yes and lies");
    image.lose_power(&mut disk, Loss::<StdRng>::All).unwrap();
    assert_eq!(image.read(&disk, 0, 9).unwrap(), b"old");
}
