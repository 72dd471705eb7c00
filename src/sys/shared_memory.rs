//! Memory that outlives the process that writes it: a memfd (memfd_create(2)) mapped by the guardian and by each master.

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Memory is given back in parts of this many bytes: whole pages on every architecture.
const PART: usize = 64 << 10;

/// A mapping of a memfd. Its size never changes (fcntl(2), F_SEAL_SHRINK), so an access within it cannot fail with
/// SIGBUS; pages that nobody has touched cost nothing.
#[derive(Debug)]
pub struct SharedMemory {
    base: *mut u8,
    /// Where the mapping begins in the file.
    at: usize,
    len: usize,
    fd: Arc<OwnedFd>,
}

// SAFETY: the mapping belongs to this value alone, and nothing in it is bound to a thread.
unsafe impl Send for SharedMemory {}

impl SharedMemory {
    /// New memory of `len` bytes, all zero. `name` is shown in /proc/PID/maps.
    ///
    /// # Errors
    /// ENOMEM, EMFILE; ENOSYS: memfd_create(2) is not permitted here.
    pub fn new(name: &str, len: usize) -> io::Result<Self> {
        let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        ftruncate(&fd, i64::try_from(len).map_err(io::Error::other)?)?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals))?;
        Self::map(Arc::new(fd), 0, len)
    }

    /// Maps memory that another process has made.
    ///
    /// # Errors
    /// `InvalidData`: the file has another size, or it may shrink; ENOMEM.
    pub fn open(fd: OwnedFd, len: usize) -> io::Result<Self> {
        let size = nix::sys::stat::fstat(&fd)?.st_size;
        let seals = SealFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GET_SEALS).unwrap_or(0));
        if usize::try_from(size) != Ok(len) || !seals.contains(SealFlag::F_SEAL_SHRINK) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Self::map(Arc::new(fd), 0, len)
    }

    /// Another mapping of `len` bytes of it, from `at` on: for a thread that writes a part of its own.
    ///
    /// # Errors
    /// ENOMEM; EINVAL: `at` is no multiple of the page size. `InvalidInput`: it lies beyond the end.
    pub fn part(&self, at: usize, len: usize) -> io::Result<Self> {
        if at.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Self::map(self.fd.clone(), self.at + at, len)
    }

    fn map(fd: Arc<OwnedFd>, at: usize, len: usize) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
        let offset = libc::off_t::try_from(at).map_err(io::Error::other)?;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let base = unsafe { libc::mmap(null_mut(), len, access, flags, fd.as_raw_fd(), offset) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            base: base.cast(),
            at,
            len,
            fd,
        })
    }

    /// Its size in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no room at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number in the eight bytes at `index` times eight.
    ///
    /// # Panics
    /// If that lies beyond the end.
    pub fn number(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.len / size_of::<AtomicU64>(), "beyond the end");
        // SAFETY: within the mapping, and aligned since the mapping begins at a page. Every bit pattern is a valid number,
        // and all processes access it atomically.
        unsafe { &*self.base.cast::<AtomicU64>().add(index) }
    }

    /// Writes bytes from `at` on. False, and nothing is written: they do not fit.
    pub fn write(&mut self, at: usize, bytes: &[u8]) -> bool {
        if at.checked_add(bytes.len()).is_none_or(|end| end > self.len) {
            return false;
        }
        // SAFETY: the range lies within the mapping, which `bytes` cannot overlap: nobody gets a reference into it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(at), bytes.len()) };
        true
    }

    /// Gives the whole parts of 64 KiB in this range back to the system; they are zero from then on (madvise(2), MADV_REMOVE). A
    /// system that refuses keeps them as they are.
    ///
    /// # Panics
    /// If the range lies beyond the end.
    pub fn discard(&mut self, range: Range<usize>) {
        let (first, end) = (range.start.next_multiple_of(PART), range.end / PART * PART);
        assert!(range.end <= self.len, "beyond the end");
        if first < end {
            // SAFETY: whole pages within the mapping, into which there is no reference.
            unsafe { libc::madvise(self.base.add(first).cast(), end - first, libc::MADV_REMOVE) };
        }
    }

    /// A copy of `len` bytes from `at` on. None: beyond the end.
    pub fn read(&self, at: usize, len: usize) -> Option<Vec<u8>> {
        if at.checked_add(len).is_none_or(|end| end > self.len) {
            return None;
        }
        let mut bytes = vec![0; len];
        // SAFETY: the range lies within the mapping, and the vector is new.
        unsafe { std::ptr::copy_nonoverlapping(self.base.add(at), bytes.as_mut_ptr(), len) };
        Some(bytes)
    }
}

/// A number in the memory that `pid` has made by [`SharedMemory::new`] with this name, read through /proc. None: it has no
/// such memory, or may not be looked at.
pub fn number_of_process(pid: i32, name: &str, index: usize) -> Option<u64> {
    let wanted = format!("/memfd:{name} (deleted)");
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let mut paths = fds.flatten().map(|fd| fd.path());
    let path = paths.find(|path| {
        std::fs::read_link(path).is_ok_and(|link| link.as_os_str() == wanted.as_str())
    })?;
    let mut bytes = [0; size_of::<u64>()];
    let at = index * bytes.len();
    let file = std::fs::File::open(path).ok()?;
    file.read_exact_at(&mut bytes, at as u64).ok()?;
    Some(u64::from_ne_bytes(bytes))
}

impl AsFd for SharedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: our own mapping; no reference into it outlives this value.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn what_is_written_is_seen_by_the_next_process() {
        let mut memory = SharedMemory::new("test", 8192).unwrap();
        assert!(memory.write(4096, b"state"));
        memory.number(3).store(7, Ordering::Release);
        let again = SharedMemory::map(memory.fd.clone(), 0, 8192).unwrap();
        drop(memory);
        assert_eq!(again.read(4096, 5).unwrap(), b"state");
        assert_eq!(again.number(3).load(Ordering::Acquire), 7);
    }

    #[test]
    fn discarded_pages_are_zero_and_take_no_memory() {
        let mut memory = SharedMemory::new("test", 4 * PART).unwrap();
        assert!(memory.write(0, &vec![7; 4 * PART]));
        memory.discard(PART - 1..3 * PART + 1);
        // Before they are read: that makes pages again.
        let blocks = nix::sys::stat::fstat(&memory).unwrap().st_blocks;
        assert_eq!(blocks * 512, 2 * PART as i64);
        let bytes = memory.read(0, 4 * PART).unwrap();
        let at = |index: usize| bytes[index];
        let kept = [at(0), at(PART - 1), at(3 * PART), at(4 * PART - 1)];
        assert_eq!((kept, at(PART), at(3 * PART - 1)), ([7; 4], 0, 0));
    }

    #[test]
    fn a_part_is_the_same_memory() {
        let memory = SharedMemory::new("test", 16384).unwrap();
        let mut part = memory.part(8192, 4096).unwrap();
        assert!(part.write(5, b"there") && !part.write(4095, b"beyond"));
        assert_eq!(memory.read(8197, 5).unwrap(), b"there");
        assert!(memory.part(8192, 8193).is_err());
        let inner = memory.part(4096, 12288).unwrap().part(4096, 4096).unwrap();
        assert_eq!(inner.read(5, 5).unwrap(), b"there", "a part of a part");
    }

    #[test]
    fn nothing_is_written_beyond_the_end() {
        let mut memory = SharedMemory::new("test", 4096).unwrap();
        assert!(!memory.write(4090, b"1234567"));
        assert!(!memory.write(usize::MAX, b"1"));
        assert!(memory.write(4089, b"1234567"));
        assert_eq!(memory.read(4090, 7), None);
        assert_eq!(memory.read(4095, 1).unwrap(), b"7");
    }

    #[test]
    fn another_process_can_read_a_number() {
        let memory = SharedMemory::new("test-number", 4096).unwrap();
        memory.number(7).store(4711, Ordering::Release);
        let me = std::process::id().cast_signed();
        assert_eq!(number_of_process(me, "test-number", 7), Some(4711));
        assert_eq!(number_of_process(me, "test-another", 7), None);
    }

    #[test]
    fn nobody_can_take_its_pages_away() {
        let memory = SharedMemory::new("test", 8192).unwrap();
        let error = ftruncate(&*memory.fd, 4096).unwrap_err();
        assert_eq!(error, nix::errno::Errno::EPERM);
    }
}
