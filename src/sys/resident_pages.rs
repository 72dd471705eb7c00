//! Gives memory back to the kernel that a process which mostly sleeps does not need: the guardian is forked from a process
//! that has read a configuration, and a master that has started its workers waits for one of them to end.

use nix::libc;
use std::ffi::{c_int, c_void};
use std::fs;
use std::ops::Range;

/// Below the present stack frame, this many bytes stay: frames of calls, and the red zone of the ABI.
const STACK_MARGIN: usize = 16 << 10;

/// Pages of the program and its libraries that this process has not changed: the kernel reads them again from the file
/// when they are touched.
#[derive(Debug)]
pub struct UnusedPages(Vec<Range<usize>>);

impl UnusedPages {
    /// Gives back what earlier calls have left on the heap and on the stack, and finds the rest in the program headers
    /// (dl_iterate_phdr(3)). To be called on the main thread.
    pub fn find() -> Self {
        let mut found = Vec::new();
        // SAFETY: `add_segments` gets a valid description of each object, and this vector, which nothing else uses meanwhile.
        unsafe { libc::dl_iterate_phdr(Some(add_segments), (&raw mut found).cast()) };
        if let Some(stack) = fs::read_to_string("/proc/self/maps")
            .ok()
            .and_then(|maps| stack(&maps))
        {
            release_below_this_frame(stack);
        }
        trim_heap();
        Self(found)
    }

    /// Drops the unchanged pages (madvise(2), MADV_DONTNEED). Uses no descriptor.
    pub fn release(&self) {
        for range in &self.0 {
            // SAFETY: whole pages of segments that were never writable (what relocation changes lies in writable ones), so each
            // page is the file's, and the next access reads the same bytes again.
            unsafe { drop_pages(range) };
        }
    }
}

/// # Safety
/// Nothing in the range may be needed, unless it is the unchanged content of a mapped file.
unsafe fn drop_pages(range: &Range<usize>) {
    let start = std::ptr::with_exposed_provenance_mut(range.start);
    // SAFETY: the caller's promise. Errors (EINVAL: locked pages) leave everything as it was.
    unsafe { libc::madvise(start, range.len(), libc::MADV_DONTNEED) };
}

/// What deep calls have used of the stack, such as the parser of the configuration.
#[inline(never)]
fn release_below_this_frame(stack: Range<usize>) {
    let here = std::ptr::from_ref(&stack).addr();
    let end = align_down(here.saturating_sub(STACK_MARGIN));
    if stack.contains(&end) {
        // SAFETY: the stack grows downwards, so no living frame lies there; it reads as zeroes when it is used again.
        unsafe { drop_pages(&(stack.start..end)) };
    }
}

fn page_size() -> usize {
    // SAFETY: takes and returns a number.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(65_536)
}

fn align_down(address: usize) -> usize {
    address / page_size() * page_size()
}

/// Adds the segments of one object that are mapped without the right to write: only whole pages, since another segment may
/// begin in the rest.
///
/// # Safety
/// As dl_iterate_phdr(3) calls it, with `found` pointing to a vector of ranges.
unsafe extern "C" fn add_segments(
    object: *mut libc::dl_phdr_info,
    _: usize,
    found: *mut c_void,
) -> c_int {
    // SAFETY: the caller's promise; the headers of a loaded object stay mapped.
    let (found, object, headers) = unsafe {
        let object = &*object;
        let headers = std::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into());
        (&mut *found.cast::<Vec<Range<usize>>>(), object, headers)
    };
    // SAFETY: takes and returns a number.
    let vdso = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) };
    let base = object.dlpi_addr as usize;
    for header in headers {
        let start = base.wrapping_add(header.p_vaddr as usize);
        let pages =
            align_down(start + page_size() - 1)..align_down(start + header.p_memsz as usize);
        let is_read_only = header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0;
        // The vDSO is the kernel's, and takes no memory of ours.
        if is_read_only && !pages.is_empty() && base as u64 != vdso as u64 {
            found.push(pages);
        }
    }
    0
}

/// The main thread's stack.
fn stack(smaps: &str) -> Option<Range<usize>> {
    let line = smaps.lines().find(|line| line.ends_with(" [stack]"))?;
    range(line.split_ascii_whitespace().next()?)
}

fn range(text: &str) -> Option<Range<usize>> {
    let (start, end) = text.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    Some(number(start)?..number(end)?)
}

/// Keeps so many bytes at the end of the heap that are free (mallopt(3), M_TRIM_THRESHOLD), for a process that calls
/// [`UnusedPages::find`] when it comes to rest. To be called before threads are started. Without effect where the C library
/// has no such call.
pub fn keep_free_heap(bytes: i32) {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes numbers. Not safe beside other threads that change such settings (mallopt(3)): none does.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, bytes);
    }
}

/// Gives free pages of the heap back (malloc_trim(3)). Without effect where the C library has no such call.
fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number, and gives back only memory that is not in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
00402000-00409000 r-xp 00002000 fe:00 6631673                    /usr/bin/rotad
7ffe5d1c9000-7ffe5d1cb000 r-xp 00000000 00:00 0                  [vdso]
7ffe4c2e8000-7ffe4c309000 rw-p 00000000 00:00 0                  [stack]
";

    #[test]
    fn the_stack_is_found() {
        assert_eq!(stack(MAPS), Some(0x7ffe_4c2e_8000..0x7ffe_4c30_9000));
    }

    /// No page in them was ever written, so all are the files'.
    #[test]
    fn only_unchanged_pages_of_files_are_found() {
        let found = UnusedPages::find().0;
        let constant = MAPS.as_ptr().addr();
        assert!(found.iter().any(|range| range.contains(&constant)));
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut checked = 0;
        let mut inside = false;
        for line in smaps.lines() {
            let first = line.split_ascii_whitespace().next().unwrap_or_default();
            if let Some(mapping) = range(first) {
                inside = found
                    .iter()
                    .any(|range| range.start < mapping.end && mapping.start < range.end);
                assert!(
                    !inside || !line.contains("[vdso]") && !line.contains(" rw"),
                    "{line}"
                );
            } else if inside && first == "Anonymous:" {
                assert!(line.ends_with(" 0 kB"), "{line}");
                checked += 1;
            }
        }
        assert!(checked >= found.len(), "{checked} mappings of {found:?}");
    }

    #[test]
    fn released_pages_are_read_again() {
        let length = || fs::read("/proc/self/exe").expect("the program").len();
        let before = length();
        let pages = UnusedPages::find();
        assert!(!pages.0.is_empty());
        pages.release();
        assert_eq!(length(), before);
    }
}
