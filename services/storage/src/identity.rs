//! Whose a folder is: the cluster, the node, the disk, and how often it was started.
//!
//! In: what the configuration says. Out: an identity that is durable, or a refusal that has written nothing. Must never
//! take a folder for another node's, nor one that a newer version wrote.
//!
//! `volume.meta`, written once, and `volume.boot`, the boot counter: each is the same block twice, so that one flipped bit
//! does not cost the volume its secret, nor the node its start. A block, little endian, [`BLOCK`] bytes, zeros between the
//! fields and the CRC:
//!
//! | at | bytes | volume.meta | volume.boot |
//! | --- | --- | --- | --- |
//! | 0 | 8 | `MRDNMETA` | `MRDNBOOT` |
//! | 8 | 4 | on-disk format version | the same |
//! | 12 | 4 | node | zero |
//! | 16 | 16 | cluster uuid | boot (8 bytes), zero |
//! | 32 | 16 | disk uuid | zero |
//! | 48 | 16 | the volume's secret | zero |
//! | 4092 | 4 | crc32c of bytes 0..4092 | the same |

use std::fmt;
use std::io;
use std::path::Path;

use meridian_types::{Boot, ClusterUuid, DiskUuid, NodeId};
use rand::RngExt;
use uuid::Uuid;

use crate::aligned::BLOCK;
use crate::disk::Disk;

/// The on-disk format that this build writes, and the newest that it reads.
pub const DISK_FORMAT: u32 = 1;

/// Says that a volume was made in the folder; [`crate::Volume`] writes it.
pub(crate) const VOLUME_MADE: &str = "volume.made";

const META: &str = "volume.meta";
const BOOT: &str = "volume.boot";
const META_MAGIC: &[u8; 8] = b"MRDNMETA";
const BOOT_MAGIC: &[u8; 8] = b"MRDNBOOT";
const CRC_AT: usize = BLOCK - 4;

/// What seeds the CRCs of a volume's rounds, so that no payload can pass for a round.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret(pub(crate) [u8; 16]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Whose a folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterUuid,
    /// The node.
    pub node: NodeId,
    /// The disk: new with every format.
    pub disk: DiskUuid,
    /// The volume's secret.
    pub secret: Secret,
}

/// Why a folder is refused.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// No identity there.
    #[error(
        "the data folder is not formatted: format it if this node is new; if the node has lost its disk it is another \
         node now: give it a new id"
    )]
    Absent,
    /// Something is there already.
    #[error("the data folder is not empty (it has {0}): give a new node an empty folder")]
    NotEmpty(String),
    /// Another node's folder.
    #[error("the data folder is of node {found}, not of node {wanted}: check data folder and node id")]
    OtherNode {
        /// As configured.
        wanted: NodeId,
        /// As in the folder.
        found: NodeId,
    },
    /// Another cluster's folder.
    #[error("the data folder is of cluster {found}, not of cluster {wanted}: check the data folder")]
    OtherCluster {
        /// As configured.
        wanted: ClusterUuid,
        /// As in the folder.
        found: ClusterUuid,
    },
    /// Written by a newer version of Meridian.
    #[error(
        "the data folder has on-disk format {0}, this build knows up to {DISK_FORMAT}: upgrade; nothing was written"
    )]
    Newer(u32),
    /// Damaged beyond use.
    #[error("{0} is damaged: restore it from a backup, or give this node up and add it under a new id")]
    Damaged(&'static str),
    /// The disk fails.
    #[error("{action} {name}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        name: &'static str,
        /// The disk's answer.
        source: io::Error,
    },
}

impl Identity {
    /// Makes a new disk's identity in an empty folder, durably.
    ///
    /// # Errors
    /// The folder has files of a volume already, or the disk fails.
    pub fn format(disk: &dyn Disk, cluster: ClusterUuid, node: NodeId) -> Result<Self, IdentityError> {
        let names = disk.list().map_err(io("list", "the folder"))?;
        // What a format that was cut short leaves is no reason to refuse: it never answered.
        if let Some(name) =
            names.into_iter().find(|name| name.starts_with("volume") && !name.ends_with(".part"))
        {
            return Err(IdentityError::NotEmpty(name));
        }
        let mut rng = rand::rng();
        let made = Self {
            cluster,
            node,
            disk: DiskUuid(uuid::Builder::from_random_bytes(rng.random()).into_uuid()),
            secret: Secret(rng.random()),
        };
        made.store(disk)?;
        Ok(made)
    }

    /// As [`Identity::format`], with everything given: for simulations, which must repeat.
    ///
    /// # Errors
    /// The disk fails.
    pub fn format_as(
        disk: &dyn Disk,
        cluster: ClusterUuid,
        node: NodeId,
        uuid: DiskUuid,
        secret: [u8; 16],
    ) -> Result<Self, IdentityError> {
        let made = Self { cluster, node, disk: uuid, secret: Secret(secret) };
        made.store(disk)?;
        Ok(made)
    }

    /// Reads the identity and checks that it is the one asked for.
    ///
    /// # Errors
    /// Absent, another's, newer, damaged, or the disk fails. Nothing is written.
    pub fn load(disk: &dyn Disk, cluster: ClusterUuid, node: NodeId) -> Result<Self, IdentityError> {
        Self::read(disk)?.of(cluster, node)
    }

    /// Itself, if it is that node's.
    ///
    /// # Errors
    /// Another node's, or another cluster's.
    pub fn of(self, cluster: ClusterUuid, node: NodeId) -> Result<Self, IdentityError> {
        if self.cluster != cluster {
            return Err(IdentityError::OtherCluster { wanted: cluster, found: self.cluster });
        }
        if self.node != node {
            return Err(IdentityError::OtherNode { wanted: node, found: self.node });
        }
        Ok(self)
    }

    /// Reads the identity, whosever it is.
    ///
    /// # Errors
    /// As [`Identity::load`], but for another's.
    pub fn read(disk: &dyn Disk) -> Result<Self, IdentityError> {
        Self::parse(&read_file(disk, META)?.ok_or(IdentityError::Absent)?)
    }

    /// Reads the identity of a folder that a running process may have: nothing is locked, and nothing is written.
    ///
    /// # Errors
    /// As [`Identity::read`].
    pub fn peek(folder: &Path) -> Result<Self, IdentityError> {
        match std::fs::read(folder.join(META)) {
            Ok(bytes) => Self::parse(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(IdentityError::Absent),
            Err(error) => Err(io("read", META)(error)),
        }
    }

    fn parse(bytes: &[u8]) -> Result<Self, IdentityError> {
        let block = either(bytes, META_MAGIC, META)?;
        Ok(Self {
            cluster: ClusterUuid(Uuid::from_bytes(take(block, 16))),
            node: NodeId(u32::from_le_bytes(take(block, 12))),
            disk: DiskUuid(Uuid::from_bytes(take(block, 32))),
            secret: Secret(take(block, 48)),
        })
    }

    /// Counts a start of the process on this disk, durably, before it does anything else.
    ///
    /// # Errors
    /// Newer, damaged, or the disk fails. A counter that is gone from a volume in use is damage: to count from one again
    /// would give a boot, and what is numbered by it, twice.
    pub fn next_boot(disk: &dyn Disk) -> Result<Boot, IdentityError> {
        let last = match read_file(disk, BOOT)? {
            None if disk.list().map_err(io("list", "the folder"))?.iter().any(|name| name == VOLUME_MADE) => {
                return Err(IdentityError::Damaged(BOOT));
            }
            None => 0,
            Some(bytes) => u64::from_le_bytes(take(either(&bytes, BOOT_MAGIC, BOOT)?, 16)),
        };
        let boot = Boot(last + 1);
        let mut block = new_block(BOOT_MAGIC);
        block[16..24].copy_from_slice(&boot.0.to_le_bytes());
        seal(&mut block);
        replace_file(disk, BOOT, "volume.boot.part", &block.repeat(2))?;
        Ok(boot)
    }

    fn store(&self, disk: &dyn Disk) -> Result<(), IdentityError> {
        replace_file(disk, META, "volume.meta.part", &self.encode().repeat(2))
    }

    fn encode(&self) -> [u8; BLOCK] {
        let mut block = new_block(META_MAGIC);
        block[12..16].copy_from_slice(&self.node.0.to_le_bytes());
        block[16..32].copy_from_slice(self.cluster.0.as_bytes());
        block[32..48].copy_from_slice(self.disk.0.as_bytes());
        block[48..64].copy_from_slice(&self.secret.0);
        seal(&mut block);
        block
    }
}

fn new_block(magic: &[u8; 8]) -> [u8; BLOCK] {
    let mut block = [0u8; BLOCK];
    block[..8].copy_from_slice(magic);
    block[8..12].copy_from_slice(&DISK_FORMAT.to_le_bytes());
    block
}

fn seal(block: &mut [u8; BLOCK]) {
    let crc = crc32c::crc32c(&block[..CRC_AT]);
    block[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
}

/// The first of a file's blocks that is whole.
fn either<'a>(
    bytes: &'a [u8],
    magic: &[u8; 8],
    name: &'static str,
) -> Result<&'a [u8; BLOCK], IdentityError> {
    bytes
        .chunks_exact(BLOCK)
        .find_map(|block| checked(block, magic).transpose())
        .ok_or(IdentityError::Damaged(name))?
}

/// The block if its CRC fits, `None` if it is damaged.
fn checked<'a>(block: &'a [u8], magic: &[u8; 8]) -> Result<Option<&'a [u8; BLOCK]>, IdentityError> {
    let Some(block) = block.first_chunk::<BLOCK>() else { return Ok(None) };
    if block[..8] != *magic || crc32c::crc32c(&block[..CRC_AT]) != u32::from_le_bytes(take(block, CRC_AT)) {
        return Ok(None);
    }
    match u32::from_le_bytes(take(block, 8)) {
        DISK_FORMAT => Ok(Some(block)),
        newer => Err(IdentityError::Newer(newer)),
    }
}

fn take<const N: usize>(block: &[u8; BLOCK], at: usize) -> [u8; N] {
    let mut out = [0u8; N];
    out.copy_from_slice(&block[at..at + N]);
    out
}

fn read_file(disk: &dyn Disk, name: &'static str) -> Result<Option<Vec<u8>>, IdentityError> {
    let file = match disk.open(name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io("open", name)(error)),
    };
    let len = file.len().map_err(io("read", name))?.min(2 * BLOCK as u64);
    let mut bytes = vec![0; len as usize];
    file.read_at(&mut bytes, 0).map_err(io("read", name))?;
    Ok(Some(bytes))
}

/// Writes under another name, syncs, renames, syncs the folder: after a crash there is the old file or the new one.
fn replace_file(disk: &dyn Disk, name: &'static str, part: &str, bytes: &[u8]) -> Result<(), IdentityError> {
    let file = disk.create(part).map_err(io("create", name))?;
    file.write_at(bytes, 0).map_err(io("write", name))?;
    file.sync_data().map_err(io("sync", name))?;
    disk.rename(part, name).map_err(io("rename", name))?;
    disk.sync_dir().map_err(io("sync the folder of", name))
}

fn io(action: &'static str, name: &'static str) -> impl FnOnce(io::Error) -> IdentityError {
    move |source| IdentityError::Io { action, name, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{PowerLoss, SimDisk};

    const CLUSTER: ClusterUuid = ClusterUuid(Uuid::from_u128(7));

    #[test]
    fn a_folder_is_one_nodes_for_good() {
        let disk = SimDisk::new(1);
        assert!(matches!(Identity::load(&disk, CLUSTER, NodeId(1)), Err(IdentityError::Absent)));
        let made = Identity::format(&disk, CLUSTER, NodeId(1)).unwrap();
        assert!(matches!(Identity::format(&disk, CLUSTER, NodeId(1)), Err(IdentityError::NotEmpty(_))));
        disk.lose_power(PowerLoss::Nothing);
        assert_eq!(Identity::load(&disk, CLUSTER, NodeId(1)).unwrap(), made);
        let other = ClusterUuid(Uuid::from_u128(8));
        assert!(matches!(
            Identity::load(&disk, other, NodeId(1)),
            Err(IdentityError::OtherCluster { wanted, found }) if wanted == other && found == CLUSTER
        ));
        assert!(matches!(
            Identity::load(&disk, CLUSTER, NodeId(2)),
            Err(IdentityError::OtherNode { found: NodeId(1), .. })
        ));
    }

    #[test]
    fn one_flipped_bit_does_not_cost_the_identity() {
        for at in 0..2 * BLOCK as u64 {
            let disk = SimDisk::new(at);
            let made = Identity::format(&disk, CLUSTER, NodeId(1)).unwrap();
            assert!(disk.flip(META, at, 1 << (at % 8)));
            assert_eq!(Identity::read(&disk).unwrap(), made);
        }
        let disk = SimDisk::new(0);
        Identity::format(&disk, CLUSTER, NodeId(1)).unwrap();
        disk.flip(META, 100, 1);
        disk.flip(META, BLOCK as u64 + 100, 1);
        assert!(matches!(Identity::read(&disk), Err(IdentityError::Damaged(_))));
    }

    #[test]
    fn one_flipped_bit_does_not_cost_the_counter_and_a_lost_one_is_noticed() {
        for at in 0..2 * BLOCK as u64 {
            let disk = SimDisk::new(at);
            Identity::next_boot(&disk).unwrap();
            assert!(disk.flip(BOOT, at, 1 << (at % 8)));
            assert_eq!(Identity::next_boot(&disk).unwrap(), Boot(2));
        }
        let disk = SimDisk::new(0);
        Identity::next_boot(&disk).unwrap();
        disk.create(VOLUME_MADE).unwrap();
        assert!(disk.lose_file(BOOT));
        assert!(matches!(Identity::next_boot(&disk), Err(IdentityError::Damaged(_))));
    }

    #[test]
    fn a_newer_format_is_refused_and_nothing_written() {
        let disk = SimDisk::new(1);
        let mut block = Identity::format(&disk, CLUSTER, NodeId(1)).unwrap().encode();
        block[8..12].copy_from_slice(&(DISK_FORMAT + 1).to_le_bytes());
        seal(&mut block);
        disk.open(META).unwrap().write_at(&block.repeat(2), 0).unwrap();
        let before = disk.ops();
        assert!(matches!(Identity::read(&disk), Err(IdentityError::Newer(2))));
        assert_eq!(disk.ops(), before);
    }

    #[test]
    fn boots_rise_over_power_loss_at_any_step() {
        for crash in 0..12u64 {
            for seed in 0..40 {
                let disk = SimDisk::new(seed);
                let mut last = Boot(0);
                for _ in 0..2 {
                    last = Identity::next_boot(&disk).unwrap();
                }
                disk.crash_at(disk.ops() + crash + 1);
                while let Ok(boot) = Identity::next_boot(&disk) {
                    last = boot;
                }
                disk.lose_power(PowerLoss::Any);
                let next = Identity::next_boot(&disk).unwrap();
                assert!(next > last, "seed {seed}, crash {crash}: {next} after {last}");
            }
        }
    }
}
