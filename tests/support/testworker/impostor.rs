//! A program that passes for rotad when it is asked whether it can go on with a master's state, and fails once an upgrade
//! executes it. A copy of this program is one if a file beside it, `NAME.impostor`, says how: its first line is the real
//! rotad, its second what happens.

use std::os::unix::process::CommandExt;
use std::process::{Command, exit};

/// Returns in every other program.
pub(crate) fn play() {
    let own = std::env::current_exe().expect("a program");
    let Ok(text) = std::fs::read_to_string(own.with_extension("impostor")) else {
        return;
    };
    let (real, how) = text.trim().split_once('\n').expect("two lines");
    if std::env::var_os("ROTAD_GUARDIAN_STATE").is_some() {
        match how.split_once(' ') {
            None if how == "exit" => exit(3),
            None if how == "hang" => loop {
                std::thread::park();
            },
            // A moment later the master gets a signal: so the program crashes as far as can be seen.
            Some((signal, pid_file)) => {
                let script = format!("sleep 1; kill -{signal} $(cat {pid_file})");
                let child = Command::new("/bin/sh").args(["-c", &script]).spawn();
                drop(child.expect("a shell"));
            }
            None => panic!("{how}"),
        }
    }
    let error = Command::new(real).args(std::env::args_os().skip(1)).exec();
    panic!("{real}: {error}");
}
