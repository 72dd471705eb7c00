//! Log files: rotation, unfinished lines, and files that go away.

use super::*;

fn file(rotation: Rotation) -> (tempfile::TempDir, RotatingFile) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = RotatingFile::new(dir.path().join("web.log"), rotation);
    (dir, file)
}

const NEVER: Rotation = Rotation {
    max_size: 0,
    keep: 0,
    access: FileAccess {
        mode: None,
        uid: None,
        gid: None,
    },
};

fn text(dir: &tempfile::TempDir, name: &str) -> String {
    std::fs::read_to_string(dir.path().join(name)).expect("a file")
}

#[test]
fn rotates_between_lines_and_keeps_every_byte() {
    let (dir, mut file) = file(Rotation {
        max_size: 10,
        keep: 99,
        ..Rotation::default()
    });
    let all: String = (0..100).map(|n| format!("line {n}\n")).collect();
    for chunk in [&all[..300], &all[300..301], &all[301..]] {
        // The writer's thread writes only whole lines, and pieces of one writer one after another.
        file.write(&mut WriteRecord::none(), 1, chunk.as_bytes())
            .expect("written");
    }
    let files = (1..=99)
        .rev()
        .map(|n| dir.path().join(format!("web.log.{n}")))
        .filter(|path| path.exists());
    let files: Vec<PathBuf> = files.chain([dir.path().join("web.log")]).collect();
    let texts: Vec<String> = files
        .iter()
        .map(|path| std::fs::read_to_string(path).expect("a file"))
        .collect();
    assert_eq!(texts.concat(), all);
    assert!(files.len() > 30, "{}", files.len());
    let last = texts.len() - 1;
    assert!(
        texts[..last]
            .iter()
            .all(|text| text.len() < 30 && text.ends_with('\n')),
        "{texts:?}"
    );
}

#[test]
fn keeps_as_many_files_as_configured() {
    for keep in [0, 2] {
        let (dir, mut file) = file(Rotation {
            max_size: 8,
            keep,
            ..Rotation::default()
        });
        for line in ["aaaaaaaa\n", "bbbbbbbb\n", "cccccccc\n", "dddddddd\n"] {
            file.write(&mut WriteRecord::none(), 1, line.as_bytes())
                .expect("written");
        }
        assert_eq!(text(&dir, "web.log"), "dddddddd\n");
        assert_eq!(
            std::fs::read_dir(&dir).expect("a directory").count(),
            1 + keep as usize
        );
        if keep == 2 {
            assert_eq!(
                text(&dir, "web.log.1") + &text(&dir, "web.log.2"),
                "cccccccc\nbbbbbbbb\n"
            );
        }
    }
}

#[test]
fn an_unfinished_line_is_not_glued_to_anothers() {
    let (dir, mut file) = file(NEVER);
    file.write(&mut WriteRecord::none(), 1, b"half")
        .expect("written");
    file.write(&mut WriteRecord::none(), 1, b" a line\nagain half")
        .expect("written");
    file.writer_ended(&mut WriteRecord::none(), 1);
    file.write(&mut WriteRecord::none(), 2, b"whole\n")
        .expect("written");
    assert_eq!(text(&dir, "web.log"), "half a line\nagain half\nwhole\n");
    file.write(&mut WriteRecord::none(), 2, b"half")
        .expect("written");
    // A master that was killed in the middle of a line.
    let mut next = RotatingFile::new(dir.path().join("web.log"), NEVER);
    next.write(&mut WriteRecord::none(), 1, b"on\n")
        .expect("written");
    assert!(text(&dir, "web.log").ends_with("whole\nhalf\non\n"));
}

#[test]
fn a_removed_file_is_created_again_with_its_directory() {
    let dir = tempfile::tempdir().expect("a directory");
    let directory = dir.path().join("logs");
    let mut file = RotatingFile::new(directory.join("web.log"), NEVER);
    file.write(&mut WriteRecord::none(), 1, b"one\n")
        .expect("written");
    std::fs::remove_dir_all(&directory).expect("removed");
    file.write(&mut WriteRecord::none(), 1, b"two\n")
        .expect("written");
    assert_eq!(
        std::fs::read_to_string(directory.join("web.log")).expect("a file"),
        "two\n"
    );
    std::fs::rename(directory.join("web.log"), directory.join("aside")).expect("renamed");
    file.write(&mut WriteRecord::none(), 1, b"three\n")
        .expect("written");
    assert_eq!(
        std::fs::read_to_string(directory.join("aside")).expect("a file"),
        "two\nthree\n"
    );
    file.reopen(&mut WriteRecord::none()).expect("opened");
    file.write(&mut WriteRecord::none(), 1, b"four\n")
        .expect("written");
    assert_eq!(
        std::fs::read_to_string(directory.join("web.log")).expect("a file"),
        "four\n"
    );
}

#[test]
fn a_full_disk_leaves_whole_lines() {
    let mut full = RotatingFile::new("/dev/full".into(), NEVER);
    let (done, error) = full
        .write(&mut WriteRecord::none(), 1, b"12345\n")
        .expect_err("no room");
    assert_eq!((done, error.raw_os_error()), (0, Some(nix::libc::ENOSPC)));
}

/// The attributes of the rotated file, unless the configuration names others.
#[test]
fn the_next_file_keeps_owner_group_and_mode() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    let (dir, mut file) = file(Rotation {
        max_size: 8,
        keep: 2,
        ..Rotation::default()
    });
    let path = dir.path().join("web.log");
    let seen = |path: &Path| {
        let meta = std::fs::metadata(path).expect("a file");
        (meta.mode() & 0o777, meta.uid(), meta.gid())
    };
    file.write(&mut WriteRecord::none(), 1, b"aaaaaaaa\n")
        .expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o604)).expect("a mode");
    if nix::unistd::geteuid().is_root() {
        chown(&path, Some(65534), Some(1)).expect("given away");
    }
    let before = seen(&path);
    file.write(&mut WriteRecord::none(), 1, b"bbbbbbbb\n")
        .expect("written");
    assert_eq!(
        (text(&dir, "web.log"), text(&dir, "web.log.1")),
        ("bbbbbbbb\n".into(), "aaaaaaaa\n".into())
    );
    assert_eq!(seen(&path), before);
    // Named ones: set on the open file, and on the next one.
    let access = FileAccess {
        mode: Some(0o600),
        ..FileAccess::default()
    };
    file.set_rotation(Rotation {
        max_size: 8,
        keep: 2,
        access,
    });
    assert_eq!(seen(&path), (0o600, before.1, before.2));
    file.write(&mut WriteRecord::none(), 1, b"cccccccc\n")
        .expect("written");
    assert_eq!(text(&dir, "web.log"), "cccccccc\n");
    assert_eq!(seen(&path), (0o600, before.1, before.2));
}

/// A master that dies between two renames leaves a number without a file.
#[test]
fn a_rotation_that_was_cut_short_drops_no_file() {
    let (dir, mut file) = file(Rotation {
        max_size: 4,
        keep: 3,
        ..Rotation::default()
    });
    let record = &mut WriteRecord::none();
    for line in ["one\n", "two\n", "tri\n", "for\n"] {
        file.write(record, 1, line.as_bytes()).expect("written");
    }
    std::fs::remove_file(dir.path().join("web.log.3")).expect("the oldest");
    let name = |number: u32| dir.path().join(format!("web.log.{number}"));
    std::fs::rename(name(2), name(3)).expect("renamed");
    file.write(record, 1, b"fiv\n").expect("written");
    assert_eq!(text(&dir, "web.log.3"), "two\n");
    assert_eq!(text(&dir, "web.log.2"), "tri\n");
    assert_eq!(text(&dir, "web.log.1"), "for\n");
    assert_eq!(text(&dir, "web.log"), "fiv\n");
}
