//! A file system that never answers.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Its server never answers; it fails everything once it is dropped.
pub struct DeadMount(#[expect(dead_code, reason = "held open")] File, PathBuf);

impl DeadMount {
    /// In the calling thread's mount namespace. None: it takes root and a kernel with FUSE.
    pub fn over(path: &Path) -> Option<Self> {
        let device = File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .ok()?;
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0",
            device.as_raw_fd()
        );
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(
            Some("dead"),
            path,
            Some("fuse"),
            flags,
            Some(options.as_str()),
        )
        .ok()?;
        Some(Self(device, path.to_owned()))
    }
}

impl Drop for DeadMount {
    fn drop(&mut self) {
        umount2(&self.1, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH).unwrap();
    }
}
