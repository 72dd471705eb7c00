//! The static binaries: rotad and the worker with knobs, linked against no library. Built once, beside the others, in a
//! target directory of their own: about a minute from nothing on two shared cores.

use super::{rotad, site};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The longest that building may take.
const PATIENCE: u64 = 400;

/// The static rotad.
pub fn static_rotad() -> PathBuf {
    dir().join("rotad")
}

/// The static rotad-console.
pub fn static_console() -> PathBuf {
    dir().join("rotad-console")
}

/// The static worker with knobs.
pub fn static_testworker() -> PathBuf {
    dir().join("examples/testworker")
}

fn dir() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let target = rotad()
            .ancestors()
            .nth(2)
            .expect("the target directory")
            .join("static");
        let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env_remove("CARGO_ENCODED_RUSTFLAGS");
        // With `--target` the flags are not those of build scripts and macros, which cannot be static.
        cargo
            .env("RUSTFLAGS", "-C target-feature=+crt-static")
            .env("CARGO_PROFILE_DEV_DEBUG", "0");
        cargo.args([
            "build",
            "--locked",
            "--workspace",
            "--bins",
            "--example",
            "testworker",
            "--target",
            &triple,
        ]);
        cargo.arg("--target-dir").arg(&target);
        let run = site::finish(cargo, PATIENCE);
        assert_eq!(run.code, 0, "the static build failed:\n{}", run.err);
        target.join(triple).join("debug")
    })
}

/// The program headers of an ELF file of 64 bits, little-endian: their types.
pub fn program_headers(file: &Path) -> Vec<u32> {
    let bytes = std::fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let number = |at: usize, len: usize| {
        bytes[at..at + len]
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | *byte as usize)
    };
    assert!(
        bytes.starts_with(b"\x7fELF\x02\x01"),
        "{} is no ELF file of 64 bits",
        file.display()
    );
    // e_phoff, e_phentsize, e_phnum of elf(5).
    let (offset, size, many) = (number(32, 8), number(54, 2), number(56, 2));
    (0..many)
        .map(|index| number(offset + index * size, 4) as u32)
        .collect()
}
