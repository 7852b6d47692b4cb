//! FUSE's requests to the tree's operations, and back. No decisions.

use std::ffi::OsStr;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::names::KEPT;
use super::tree::{ROOT, Tree};

/// Nothing is remembered by the kernel: after power loss it would be wrong.
const TTL: Duration = Duration::ZERO;
const O_TRUNC: i32 = 0o1000;
const O_DSYNC: i32 = 0o10000;
const FALLOC_KEEP_SIZE: i32 = 1;

/// A tree as FUSE sees it.
pub struct Served(pub Arc<Tree>);

fn attributes(metadata: &Metadata, len: u64, inode: u64) -> FileAttr {
    let kind = metadata.file_type();
    let time = |seconds: i64, nanos: i64| {
        UNIX_EPOCH + Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanos).unwrap_or(0))
    };
    FileAttr {
        ino: INodeNo(inode),
        size: len,
        blocks: len.div_ceil(512),
        atime: time(metadata.atime(), metadata.atime_nsec()),
        mtime: time(metadata.mtime(), metadata.mtime_nsec()),
        ctime: time(metadata.ctime(), metadata.ctime_nsec()),
        crtime: UNIX_EPOCH,
        kind: if kind.is_dir() {
            FileType::Directory
        } else if kind.is_symlink() {
            FileType::Symlink
        } else if kind.is_fifo() {
            FileType::NamedPipe
        } else {
            FileType::RegularFile
        },
        perm: (metadata.mode() & 0o7777) as u16,
        nlink: u32::try_from(metadata.nlink()).unwrap_or(1),
        uid: metadata.uid(),
        gid: metadata.gid(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_i32)
}

fn done(reply: ReplyEmpty, result: io::Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

impl Served {
    fn reply_attr(&self, inode: u64, reply: ReplyAttr) {
        match self.0.metadata(inode) {
            Ok((metadata, len)) => reply.attr(&TTL, &attributes(&metadata, len, inode)),
            Err(error) => reply.error(errno(&error)),
        }
    }

    /// A sync that may have to wait gets a thread of its own, so that all else goes on.
    fn sync(
        &self,
        path: &Path,
        reply: ReplyEmpty,
        sync: impl FnOnce(&Tree) -> io::Result<()> + Send + 'static,
    ) {
        let tree = Arc::clone(&self.0);
        if tree.faults.may_wait(path) {
            std::thread::spawn(move || done(reply, sync(&tree)));
        } else {
            done(reply, sync(&tree));
        }
    }
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.0.lookup(parent.0, Path::new(name)) {
            Ok((metadata, len)) => {
                reply.entry(&TTL, &attributes(&metadata, len, metadata.ino()), Generation(0))
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.reply_attr(inode.0, reply);
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let sized = size.map_or(Ok(()), |size| self.0.set_len(inode.0, size));
        let moded = mode.map_or(Ok(()), |mode| self.0.set_mode(inode.0, mode));
        match sized.and(moded) {
            Ok(()) => self.reply_attr(inode.0, reply),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        match self.0.make_folder(parent.0, Path::new(name), mode & !umask) {
            Ok(metadata) => reply.entry(&TTL, &attributes(&metadata, 4096, metadata.ino()), Generation(0)),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(reply, self.0.remove(parent.0, Path::new(name), false));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(reply, self.0.remove(parent.0, Path::new(name), true));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        done(reply, self.0.rename((parent.0, Path::new(name)), (new_parent.0, Path::new(new_name))));
    }

    fn open(&self, _: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.0.open(inode.0, flags.0 & O_TRUNC != 0) {
            // Without KEEP_CACHE: the kernel forgets what it read before power was lost.
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        match self.0.create(parent.0, Path::new(name), mode & !umask) {
            Ok((handle, metadata)) => reply.created(
                &TTL,
                &attributes(&metadata, 0, metadata.ino()),
                Generation(0),
                FileHandle(handle),
                FopenFlags::empty(),
            ),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.0.read(handle.0, offset, size as usize) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.0.write(handle.0, data, offset, flags.0 & O_DSYNC != 0) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // To close is not to sync.
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.0.close(handle.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        let path = self.0.path_of_handle(handle.0);
        self.sync(&path, reply, move |tree| tree.sync(handle.0));
    }

    fn fsyncdir(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let path = self.0.path(inode.0).unwrap_or_default();
        self.sync(&path, reply, move |tree| tree.sync_folder(inode.0));
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = self.0.path(inode.0).and_then(|path| std::fs::read_dir(self.0.real(&path)));
        let listed = match listed {
            Ok(listed) => listed,
            Err(error) => return reply.error(errno(&error)),
        };
        let dots = [".", ".."].map(|name| (INodeNo(ROOT), FileType::Directory, name.into()));
        let mut entries: Vec<_> = listed
            .flatten()
            .filter(|entry| entry.file_name() != KEPT)
            .filter_map(|entry| {
                let kind = entry.file_type().ok()?;
                let kind = if kind.is_dir() { FileType::Directory } else { FileType::RegularFile };
                Some((INodeNo(entry.metadata().ok()?.ino()), kind, entry.file_name()))
            })
            .collect();
        entries.sort_by(|a, b| a.2.cmp(&b.2));
        for (index, (inode, kind, name)) in dots.into_iter().chain(entries).enumerate().skip(offset as usize)
        {
            if reply.add(inode, index as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        match rustix::fs::statvfs(self.0.real(Path::new(""))) {
            Ok(s) => reply.statfs(
                s.f_blocks,
                s.f_bfree,
                s.f_bavail,
                s.f_files,
                s.f_ffree,
                s.f_bsize as u32,
                s.f_namemax as u32,
                s.f_frsize as u32,
            ),
            Err(error) => reply.error(errno(&error.into())),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        match mode {
            FALLOC_KEEP_SIZE => reply.ok(),
            0 => done(reply, self.0.reach(handle.0, offset + length)),
            _ => reply.error(Errno::EOPNOTSUPP),
        }
    }
}
