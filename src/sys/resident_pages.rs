//! Gives memory back to the kernel that a process which mostly sleeps does not need: the guardian is forked from a process
//! that has read a configuration, and a master that has started its workers waits for one of them to end.

use nix::libc;
use std::fs;
use std::ops::Range;

/// Below the present stack frame, this many bytes stay: frames of calls, and the red zone of the ABI.
const STACK_MARGIN: usize = 16 << 10;

/// Pages of the program and its libraries that this process has not changed: the kernel reads them again from the file
/// when they are touched.
#[derive(Debug)]
pub struct UnusedPages(Vec<Range<usize>>);

impl UnusedPages {
    /// Gives back what earlier calls have left on the heap and on the stack, and finds the rest by /proc/self/smaps
    /// (proc(5)); nothing where that may not be read. To be called on the main thread.
    pub fn find() -> Self {
        let text = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
        let found = Self(unchanged_mappings(&text));
        if let Some(stack) = stack(&text) {
            drop(text);
            release_below_this_frame(stack);
        }
        trim_heap();
        found
    }

    /// Drops the unchanged pages (madvise(2), MADV_DONTNEED). Uses no descriptor.
    pub fn release(&self) {
        for range in &self.0 {
            // SAFETY: a private mapping of a file that is not writable and of which no page had been changed, so each page is
            // the file's, and the next access reads the same bytes again.
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
    // SAFETY: takes and returns a number.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.unsigned_abs() as usize;
    let end = here.saturating_sub(STACK_MARGIN) / page.max(1) * page;
    if stack.contains(&end) {
        // SAFETY: the stack grows downwards, so no living frame lies there; it reads as zeroes when it is used again.
        unsafe { drop_pages(&(stack.start..end)) };
    }
}

/// The private mappings of files that cannot be written and of which no page was changed before that was so (relocations).
fn unchanged_mappings(smaps: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut mapping = None;
    for line in smaps.lines() {
        if let Some(next) = header(line) {
            mapping = next;
        } else if let Some(value) = line.strip_prefix("Anonymous:") {
            found.extend(mapping.take().filter(|_| value.trim() == "0 kB"));
        }
    }
    found
}

/// The first line of a mapping: `START-END PERMISSIONS OFFSET DEVICE INODE PATH`. The range is None unless it is a private
/// read-only mapping of a file. None: another line.
fn header(line: &str) -> Option<Option<Range<usize>>> {
    let mut words = line.split_ascii_whitespace();
    let range = range(words.next()?)?;
    let permissions = words.next()?;
    let inode = words.nth(2)?;
    let read_only = matches!(permissions, "r--p" | "r-xp");
    Some((read_only && inode != "0").then_some(range))
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

    const SMAPS: &str = "\
00400000-00402000 r--p 00000000 fe:00 6631673                    /usr/bin/rotad
Rss:                   8 kB
Anonymous:             0 kB
VmFlags: rd mr mw me sd
00402000-00409000 r-xp 00002000 fe:00 6631673                    /usr/bin/rotad
Anonymous:             0 kB
00409000-0040b000 r--p 00009000 fe:00 6631673                    /usr/bin/rotad
Anonymous:             8 kB
0040b000-0040c000 rw-p 0000b000 fe:00 6631673                    /usr/bin/rotad
Anonymous:             0 kB
7f0000000000-7f0000001000 r--s 00000000 00:01 2049               /memfd:rotad-state (deleted)
Anonymous:             0 kB
7ffe5d1c9000-7ffe5d1cb000 r-xp 00000000 00:00 0                  [vdso]
Anonymous:             0 kB
7ffe4c2e8000-7ffe4c309000 rw-p 00000000 00:00 0                  [stack]
Anonymous:            96 kB
";

    #[test]
    fn only_unchanged_pages_of_files_are_found() {
        let expected = [0x40_0000..0x40_2000, 0x40_2000..0x40_9000];
        assert_eq!(unchanged_mappings(SMAPS), expected);
    }

    #[test]
    fn the_stack_is_found() {
        assert_eq!(stack(SMAPS), Some(0x7ffe_4c2e_8000..0x7ffe_4c30_9000));
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
