//! Extended attributes (getxattr(2), setxattr(2)).

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Reads a short attribute of a file.
///
/// # Errors
/// ENODATA: there is no such attribute; ERANGE: it is longer than 64 bytes; EOPNOTSUPP: the file system has none.
pub fn get(path: &Path, name: &str) -> io::Result<Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let name = CString::new(name)?;
    let mut value = vec![0u8; 64];
    // SAFETY: both strings end in NUL, and the kernel writes at most value.len() bytes into value.
    let len = unsafe {
        nix::libc::getxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    if len < 0 {
        return Err(io::Error::last_os_error());
    }
    value.truncate(len as usize);
    Ok(value)
}

/// Sets an attribute of a file.
///
/// # Errors
/// EPERM; EOPNOTSUPP: the file system has no attributes.
pub fn set(path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let name = CString::new(name)?;
    // SAFETY: both strings end in NUL, and the kernel reads value.len() bytes of value.
    let done = unsafe {
        nix::libc::setxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
