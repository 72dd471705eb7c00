//! Descriptors that outlive a master: their numbers are saved, and the next master takes them out of the descriptor
//! table that it shares with the guardian (clone(2), CLONE_FILES).
//!
//! The saving side calls [`KeptFd::of`]. A restored master makes one [`FdTable`] before it opens anything, takes each
//! descriptor that the saved state names with [`FdTable::take`], and closes the others by dropping the table.

use super::descriptors;
use nix::sys::stat::fstat;
use serde::{Deserialize, Serialize, Serializer};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

/// A descriptor by its number, and the file that it refers to by device and inode (stat(2)): so a number that was closed
/// and opened again is told from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct KeptFd {
    number: RawFd,
    device: u64,
    inode: u64,
}

impl KeptFd {
    /// A descriptor that was saved as numbers.
    pub fn new(number: RawFd, device: u64, inode: u64) -> Self {
        Self {
            number,
            device,
            inode,
        }
    }

    /// The inode number of its file.
    pub fn inode(self) -> u64 {
        self.inode
    }

    /// What is saved of an open descriptor.
    ///
    /// # Errors
    /// Those of fstat(2); none for an open descriptor.
    pub fn of(fd: &impl AsFd) -> io::Result<Self> {
        let fd = fd.as_fd();
        let stat = fstat(fd)?;
        Ok(Self {
            number: fd.as_raw_fd(),
            device: stat.st_dev,
            inode: stat.st_ino,
        })
    }
}

impl Serialize for KeptFd {
    /// Without the names of the fields, which [`Deserialize`] does not need: a worker has several.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.number, self.device, self.inode).serialize(serializer)
    }
}

/// The open descriptors of a process whose code owns none of them yet.
#[derive(Debug)]
pub struct FdTable(BTreeMap<RawFd, OwnedFd>);

impl FdTable {
    /// The descriptors from `first` on, but for `others`, all close-on-exec from now on. To be made once in a process,
    /// while no code owns one of them; `others` have owners.
    ///
    /// # Errors
    /// Those of reading /proc/self/fd.
    pub fn of_process(first: RawFd, others: &[RawFd]) -> io::Result<Self> {
        let numbers: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|number| *number >= first && !others.contains(number))
            .collect();
        // The listing has listed its own descriptor, which is closed by now.
        let open = numbers
            .into_iter()
            .filter_map(|number| Some((number, descriptors::take_inherited(number).ok()?)));
        Ok(Self(open.collect()))
    }

    /// Takes a descriptor out of the table.
    ///
    /// # Errors
    /// EBADF: it is not open, or was taken before; ESTALE: the number refers to another file.
    pub fn take(&mut self, kept: KeptFd) -> io::Result<OwnedFd> {
        let fd = self.0.get(&kept.number).ok_or(nix::errno::Errno::EBADF)?;
        if KeptFd::of(fd)? != kept {
            return Err(nix::errno::Errno::ESTALE.into());
        }
        let taken = self.0.remove(&kept.number);
        Ok(taken.ok_or(nix::errno::Errno::EBADF)?)
    }

    /// Takes all descriptors that this function finds to be wanted: those that were opened, but not saved yet.
    pub fn take_if(&mut self, mut wanted: impl FnMut(&OwnedFd) -> bool) -> Vec<OwnedFd> {
        let numbers: Vec<RawFd> = self
            .0
            .iter()
            .filter(|(_, fd)| wanted(fd))
            .map(|(number, _)| *number)
            .collect();
        numbers
            .into_iter()
            .filter_map(|number| self.0.remove(&number))
            .collect()
    }

    /// Copies of all descriptors that this function finds to be wanted.
    pub fn copies(&self, mut wanted: impl FnMut(&OwnedFd) -> bool) -> Vec<OwnedFd> {
        let found = self.0.values().filter(|fd| wanted(fd));
        found.filter_map(|fd| fd.try_clone().ok()).collect()
    }

    /// How many were not taken. Dropping the table closes them.
    pub fn left(&self) -> usize {
        self.0.len()
    }
}

/// Kills the owner of what was saved, as SIGKILL would: its destructors do not run. Returns what a next master reads,
/// which has been text in between, and the descriptors that it finds: those that are named in there.
#[cfg(test)]
pub(crate) fn killed<S: Serialize + serde::de::DeserializeOwned>(
    owner: impl Sized,
    saved: &S,
) -> (S, FdTable) {
    /// Three numbers may be something else.
    fn is_open(kept: KeptFd) -> bool {
        let stat = nix::sys::stat::stat(format!("/proc/self/fd/{}", kept.number).as_str());
        stat.is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (kept.device, kept.inode))
    }

    fn collect(value: &serde_json::Value, found: &mut Vec<KeptFd>) {
        match value {
            serde_json::Value::Array(all) => match serde_json::from_value(value.clone()) {
                Ok(kept) if is_open(kept) => found.push(kept),
                _ => all.iter().for_each(|one| collect(one, found)),
            },
            serde_json::Value::Object(all) => all.values().for_each(|one| collect(one, found)),
            _ => {}
        }
    }
    #[expect(clippy::mem_forget, reason = "a killed process drops nothing")]
    std::mem::forget(owner);
    let text = serde_json::to_string(saved).unwrap();
    let mut found = Vec::new();
    collect(&serde_json::from_str(&text).unwrap(), &mut found);
    let open = found.iter().map(|kept| {
        (
            kept.number,
            descriptors::take_inherited(kept.number).unwrap(),
        )
    });
    let table = FdTable(open.collect());
    (serde_json::from_str(&text).unwrap(), table)
}

/// Set in the process of [`in_another_process`].
#[cfg(test)]
const OTHER_PROCESS: &str = "ROTAD_TEST_OTHER_PROCESS";

/// Runs the test that calls it once more, in another process, which does `there` with this descriptor and ends. Returns
/// whether this is that process.
#[cfg(test)]
pub(crate) fn in_another_process(fd: impl FnOnce() -> OwnedFd, there: fn(OwnedFd)) -> bool {
    if std::env::var_os(OTHER_PROCESS).is_some() {
        there(io::stdin().as_fd().try_clone_to_owned().unwrap());
        return true;
    }
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let status = command
        .args(["--exact", std::thread::current().name().unwrap()])
        .env(OTHER_PROCESS, "1")
        .stdin(fd())
        .stdout(std::process::Stdio::null())
        .status();
    assert!(status.unwrap().success());
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::IntoRawFd;

    /// A table with one descriptor that nothing else owns. (`of_process` would take those of the test runner.)
    fn table_of(file: File) -> (FdTable, KeptFd) {
        let kept = KeptFd::of(&file).unwrap();
        let number = file.into_raw_fd();
        let fd = descriptors::take_inherited(number).unwrap();
        (FdTable(BTreeMap::from([(number, fd)])), kept)
    }

    #[test]
    fn a_kept_descriptor_is_taken_once() {
        let (mut table, kept) = table_of(File::open("/dev/null").unwrap());
        assert_eq!(table.left(), 1);
        assert_eq!(KeptFd::of(&table.take(kept).unwrap()).unwrap(), kept);
        let again = table.take(kept).unwrap_err();
        assert_eq!(again.raw_os_error(), Some(nix::libc::EBADF));
        assert_eq!(table.left(), 0);
    }

    #[test]
    fn a_number_that_refers_to_another_file_is_not_taken() {
        let (mut table, kept) = table_of(File::open("/dev/null").unwrap());
        let other = KeptFd {
            inode: kept.inode + 1,
            ..kept
        };
        let error = table.take(other).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::ESTALE));
        assert_eq!(table.left(), 1);
    }

    #[test]
    fn what_is_saved_can_be_read_again() {
        let (_table, kept) = table_of(File::open("/dev/null").unwrap());
        let text = serde_json::to_string(&kept).unwrap();
        assert_eq!(serde_json::from_str::<KeptFd>(&text).unwrap(), kept);
    }
}
