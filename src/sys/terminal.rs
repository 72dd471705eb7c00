//! The size of a terminal (ioctl_tty(2)).

use nix::libc;
use std::os::fd::{AsFd, AsRawFd};

/// Its numbers of lines and columns; None if it is not a terminal, or does not know its size.
pub fn size(terminal: &impl AsFd) -> Option<(u16, u16)> {
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
    (done == 0 && size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_no_terminal_size() {
        assert_eq!(size(&std::fs::File::open("/dev/null").unwrap()), None);
    }
}
