//! The size of a terminal (ioctl_tty(2)).

use nix::libc;
use std::os::fd::{AsFd, AsRawFd};

/// How many lines it shows; none: it is no terminal, or does not know.
pub fn rows(terminal: &impl AsFd) -> Option<u16> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the descriptor is borrowed for the call, and TIOCGWINSZ writes one winsize.
    let done = unsafe {
        libc::ioctl(
            terminal.as_fd().as_raw_fd(),
            libc::TIOCGWINSZ,
            &raw mut size,
        )
    };
    (done == 0 && size.ws_row > 0).then_some(size.ws_row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_terminal_has_no_size() {
        assert_eq!(rows(&std::fs::File::open("/dev/null").unwrap()), None);
    }
}
