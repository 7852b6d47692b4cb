//! Names in directories, durable only once their directory was synced.
//!
//! Everything is done at once in the backing folder, with a note of how to undo it; syncing a directory forgets its
//! notes, power loss carries out those that are left, newest first. What a note still needs lies in a folder of its own
//! that no program sees. Strict as POSIX, stricter than ext4: syncing a file does not make its own name durable.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Where removed and replaced files lie until their removal is durable.
pub const KEPT: &str = ".power-kept";

/// How a change is undone.
#[derive(Debug)]
enum Undo {
    /// Something was made.
    Remove(PathBuf),
    /// Something was removed, or replaced by another.
    PutBack { kept: PathBuf, path: PathBuf },
    /// Something was renamed.
    RenameBack { from: PathBuf, to: PathBuf },
    /// An empty folder was removed.
    MakeFolder(PathBuf),
}

/// The tree's names: which inode is where, and what would be undone. Paths are relative to the backing folder.
#[derive(Debug)]
pub struct Names {
    root: PathBuf,
    paths: HashMap<u64, PathBuf>,
    /// Oldest first, with the directory whose sync makes each durable.
    undos: Vec<(PathBuf, Undo)>,
    kept: u64,
}

impl Names {
    /// Of a backing folder.
    pub fn new(root: &Path) -> io::Result<Self> {
        let kept = root.join(KEPT);
        if kept.exists() {
            fs::remove_dir_all(&kept)?;
        }
        fs::create_dir(&kept)?;
        Ok(Self { root: root.to_owned(), paths: HashMap::new(), undos: Vec::new(), kept: 0 })
    }

    /// Where something is on the machine.
    pub fn real(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }

    /// Where an inode is.
    pub fn path(&self, inode: u64) -> Option<PathBuf> {
        self.paths.get(&inode).cloned()
    }

    /// Remembers where an inode is, and gives it.
    pub fn remember(&mut self, path: &Path) -> io::Result<(u64, fs::Metadata)> {
        let metadata = fs::symlink_metadata(self.real(path))?;
        self.paths.insert(metadata.ino(), path.to_owned());
        Ok((metadata.ino(), metadata))
    }

    /// Something was made there.
    pub fn made(&mut self, path: &Path) {
        self.note(path, Undo::Remove(path.to_owned()));
    }

    /// Removes a file.
    pub fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        let kept = self.keep(path)?;
        self.note(path, Undo::PutBack { kept, path: path.to_owned() });
        Ok(())
    }

    /// Removes an empty folder.
    pub fn remove_folder(&mut self, path: &Path) -> io::Result<()> {
        fs::remove_dir(self.real(path))?;
        self.note(path, Undo::MakeFolder(path.to_owned()));
        Ok(())
    }

    /// Renames, replacing what is there.
    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        if self.real(to).is_file() {
            let kept = self.keep(to)?;
            self.note(to, Undo::PutBack { kept, path: to.to_owned() });
        }
        fs::rename(self.real(from), self.real(to))?;
        self.moved(from, to);
        self.note(to, Undo::RenameBack { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    /// A directory was synced. Gives the inodes whose last bytes went with that.
    pub fn sync(&mut self, directory: &Path) -> io::Result<Vec<u64>> {
        let mut gone = Vec::new();
        let (durable, left) =
            std::mem::take(&mut self.undos).into_iter().partition(|(of, _)| of.as_path() == directory);
        self.undos = left;
        let durable: Vec<(PathBuf, Undo)> = durable;
        for (_, undo) in durable {
            if let Undo::PutBack { kept, .. } = undo {
                let real = self.real(&kept);
                gone.push(fs::symlink_metadata(&real)?.ino());
                fs::remove_file(real)?;
            }
        }
        Ok(gone)
    }

    /// Power is lost: names go back to what was synced. Gives the inodes that are gone.
    pub fn lose_power(&mut self) -> io::Result<Vec<u64>> {
        let mut gone = Vec::new();
        while let Some((_, undo)) = self.undos.pop() {
            match undo {
                Undo::Remove(path) => {
                    let real = self.real(&path);
                    match fs::symlink_metadata(&real) {
                        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(real)?,
                        Ok(metadata) => {
                            gone.push(metadata.ino());
                            fs::remove_file(real)?;
                        }
                        // It was moved to a directory that was synced.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        Err(error) => return Err(error),
                    }
                }
                Undo::PutBack { kept, path } => {
                    fs::rename(self.real(&kept), self.real(&path))?;
                    self.moved(&kept, &path);
                }
                Undo::RenameBack { from, to } => {
                    if self.real(&to).exists() {
                        fs::rename(self.real(&to), self.real(&from))?;
                        self.moved(&to, &from);
                    }
                }
                Undo::MakeFolder(path) => fs::create_dir(self.real(&path))?,
            }
        }
        Ok(gone)
    }

    fn note(&mut self, path: &Path, undo: Undo) {
        let directory = path.parent().unwrap_or(Path::new("")).to_owned();
        self.undos.push((directory, undo));
    }

    /// Moves a file out of sight. Who has it open goes on.
    fn keep(&mut self, path: &Path) -> io::Result<PathBuf> {
        self.kept += 1;
        let kept = Path::new(KEPT).join(self.kept.to_string());
        fs::rename(self.real(path), self.real(&kept))?;
        self.moved(path, &kept);
        Ok(kept)
    }

    /// Follows what was renamed, and all that is in it.
    fn moved(&mut self, from: &Path, to: &Path) {
        for path in self.paths.values_mut() {
            if let Ok(rest) = path.strip_prefix(from) {
                *path = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
            }
        }
        for (directory, _) in &mut self.undos {
            if let Ok(rest) = directory.strip_prefix(from) {
                *directory = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Names) {
        let folder = tempfile::tempdir().unwrap();
        let names = Names::new(folder.path()).unwrap();
        (folder, names)
    }

    fn make(names: &mut Names, name: &str, text: &str) {
        fs::write(names.real(Path::new(name)), text).unwrap();
        names.made(Path::new(name));
    }

    fn listed(names: &Names) -> Vec<(String, String)> {
        let entries = fs::read_dir(&names.root).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = entries
            .filter(|path| path.is_file())
            .map(|path| {
                (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(path).unwrap())
            })
            .collect();
        files.sort();
        files
    }

    fn is(names: &Names, wanted: &[(&str, &str)]) {
        let wanted: Vec<_> =
            wanted.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        assert_eq!(listed(names), wanted);
    }

    #[test]
    fn names_that_were_not_synced_go_and_removed_ones_come_back() {
        let (_folder, mut names) = folder();
        make(&mut names, "a", "one");
        make(&mut names, "b", "two");
        names.sync(Path::new("")).unwrap();
        make(&mut names, "c", "three");
        names.rename(Path::new("c"), Path::new("a")).unwrap();
        names.remove_file(Path::new("b")).unwrap();
        is(&names, &[("a", "three")]);
        names.lose_power().unwrap();
        is(&names, &[("a", "one"), ("b", "two")]);
    }

    #[test]
    fn synced_names_stay() {
        let (_folder, mut names) = folder();
        make(&mut names, "CURRENT", "old");
        names.sync(Path::new("")).unwrap();
        make(&mut names, "tmp", "new");
        names.rename(Path::new("tmp"), Path::new("CURRENT")).unwrap();
        assert_eq!(names.sync(Path::new("")).unwrap().len(), 1, "the replaced one is gone for good");
        names.lose_power().unwrap();
        is(&names, &[("CURRENT", "new")]);
    }
}
