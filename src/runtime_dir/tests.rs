use super::*;
use crate::plan::{ControlPlan, LogFormat, LogLevel, MasterPlan, SignalAction, SignalMap};
use std::os::unix::fs::PermissionsExt;

fn plan(dir: &Path) -> Plan {
    let master = MasterPlan {
        name: "t".to_owned(),
        daemonize: true,
        pid_file: dir.join("master.pid"),
        runtime_dir: dir.join("run/deep"),
        working_directory: "/".into(),
        umask: 0o022,
        log_file: None,
        default_log_file: dir.join("t.log"),
        log_format: LogFormat::Text,
        log_level: LogLevel::Info,
        log_max_size: 1,
        log_keep: 1,
        stop_timeout: None,
        watchdog: None,
        watch_config: false,
        watch_program: false,
        guardian: false,
    };
    let nothing = SignalAction::Ignore;
    Plan {
        config: dir.join("rotad.toml"),
        real: dir.join("rotad.toml"),
        sources: Vec::new(),
        include: Vec::new(),
        master,
        control: ControlPlan {
            mode: 0o600,
            group: None,
        },
        signals: SignalMap {
            hup: nothing,
            usr1: nothing,
            usr2: nothing,
            winch: nothing,
        },
        listeners: Vec::new(),
        pools: Vec::new(),
        hooks: Vec::new(),
    }
}

fn enter(plan: &Plan) -> RuntimeDir {
    RuntimeDir::enter(plan).unwrap().0
}

#[test]
fn a_second_master_is_refused_and_told_who_the_first_is() {
    let dir = tempfile::tempdir().unwrap();
    let plan = plan(dir.path());
    let runtime_dir = enter(&plan);
    let error = RuntimeDir::enter(&plan).unwrap_err();
    assert_eq!(error.code, ExitCode::ALREADY_RUNNING);
    assert!(
        error
            .message
            .contains(&format!("pid {}", std::process::id())),
        "{error}"
    );
    assert_eq!(
        lock_owner(runtime_dir.path()),
        Some(std::process::id().cast_signed())
    );
    drop(runtime_dir);
    assert_eq!(lock_owner(&plan.master.runtime_dir), None);
    enter(&plan);
}

#[test]
fn the_pid_file_appears_whole_and_goes_with_us() {
    let dir = tempfile::tempdir().unwrap();
    let plan = plan(dir.path());
    let path = &plan.master.pid_file;
    let mut runtime_dir = enter(&plan);
    assert!(!path.exists(), "not before it is asked to");
    runtime_dir.write_pid().unwrap();
    assert_eq!(
        std::fs::read_to_string(path).unwrap(),
        format!("{}\n", std::process::id())
    );
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o644);
    let files: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(files.len(), 2, "nothing beside: {files:?}");
    drop(runtime_dir);
    assert!(!path.exists());
}

#[test]
fn a_stale_pid_file_is_replaced_and_one_that_is_no_longer_ours_stays() {
    let dir = tempfile::tempdir().unwrap();
    let plan = plan(dir.path());
    let path = &plan.master.pid_file;
    std::fs::write(path, "1\n").unwrap();
    let mut runtime_dir = enter(&plan);
    runtime_dir.write_pid().unwrap();
    assert_eq!(
        std::fs::read_to_string(path).unwrap(),
        format!("{}\n", std::process::id())
    );
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, "another user's\n").unwrap();
    drop(runtime_dir);
    assert_eq!(std::fs::read_to_string(path).unwrap(), "another user's\n");
}

#[test]
fn strange_pid_files_are_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let plan = plan(dir.path());
    let path = &plan.master.pid_file;
    let victim = dir.path().join("victim");
    std::fs::write(&victim, "precious").unwrap();

    std::os::unix::fs::symlink(&victim, path).unwrap();
    let error = RuntimeDir::enter(&plan).unwrap_err();
    assert!(
        error.code == ExitCode::FAILED && error.message.contains("symbolic link"),
        "{error}"
    );
    std::fs::remove_file(path).unwrap();

    std::fs::hard_link(&victim, path).unwrap();
    let error = RuntimeDir::enter(&plan).unwrap_err();
    assert!(
        error.code == ExitCode::FAILED && error.message.contains("hard links"),
        "{error}"
    );
    std::fs::remove_file(path).unwrap();

    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(RuntimeDir::enter(&plan).unwrap_err().code, ExitCode::FAILED);
    std::fs::remove_file(path).unwrap();

    std::fs::create_dir(path).unwrap();
    assert_eq!(RuntimeDir::enter(&plan).unwrap_err().code, ExitCode::FAILED);
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
}

#[test]
fn a_pid_file_that_another_master_holds_is_75_also_when_it_comes_late() {
    let dir = tempfile::tempdir().unwrap();
    let (mut one, mut other) = (plan(dir.path()), plan(dir.path()));
    one.master.runtime_dir = dir.path().join("one");
    other.master.runtime_dir = dir.path().join("other");
    let (mut first, mut second) = (enter(&one), enter(&other));
    first.write_pid().unwrap();
    assert_eq!(
        second.write_pid().unwrap_err().code,
        ExitCode::ALREADY_RUNNING
    );
    drop(second);
    assert_eq!(
        RuntimeDir::enter(&other).unwrap_err().code,
        ExitCode::ALREADY_RUNNING
    );
    assert!(one.master.pid_file.exists());
}

#[test]
fn a_directory_that_others_may_write_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let plan = plan(dir.path());
    let open = dir.path().join("run");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
    let error = RuntimeDir::enter(&plan).unwrap_err();
    assert!(
        error.code == ExitCode::FAILED && error.message.contains("0777"),
        "{error}"
    );
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o1777)).unwrap();
    enter(&plan);
}

#[test]
fn the_control_socket_has_its_mode_and_a_stale_one_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let mut plan = plan(dir.path());
    plan.master.runtime_dir = dir.path().join("long".repeat(40)).join("x".repeat(100));
    let mut runtime_dir = enter(&plan);
    let path = runtime_dir.path().join(SOCKET);
    let socket = runtime_dir.control_socket(0o640, None).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(
        socket.accept().unwrap_err().kind(),
        io::ErrorKind::WouldBlock
    );
    // A killed master leaves it behind.
    std::fs::rename(&path, runtime_dir.path().join("kept")).unwrap();
    drop(runtime_dir);
    std::fs::rename(plan.master.runtime_dir.join("kept"), &path).unwrap();
    let runtime_dir = enter(&plan);
    assert!(!path.exists());
    drop(runtime_dir);
}

#[test]
fn the_next_master_goes_on_with_the_runtime_directory() {
    let dir = tempfile::tempdir().unwrap();
    let plan = plan(dir.path());
    let pid_file = &plan.master.pid_file;
    let mut runtime_dir = enter(&plan);
    runtime_dir.write_pid().unwrap();
    let control = runtime_dir.control_socket(0o600, None).unwrap();
    let path = runtime_dir.path().to_owned();
    let repair = RuntimeDirRepair::new(runtime_dir);
    let saved = repair.saved().unwrap().unwrap();
    let (saved, mut table) = crate::sys::kept_fd::killed(repair, &saved);
    std::fs::write(pid_file, "1\n").unwrap();
    let mut runtime_dir = RuntimeDir::restore(saved, &mut table).unwrap();
    assert_eq!(table.left(), 0);
    let refused = RuntimeDir::enter(&plan).unwrap_err();
    assert_eq!(refused.code, ExitCode::ALREADY_RUNNING);
    runtime_dir.write_pid().unwrap();
    let me = std::process::id();
    let text = std::fs::read_to_string(pid_file).unwrap();
    assert_eq!(text, format!("{me}\n"));
    assert_eq!(lock_owner(&path), Some(me.cast_signed()));
    let repair = RuntimeDirRepair::new(runtime_dir);
    assert!(
        repair.repair(0o600, None).unwrap().what.len() == 2,
        "the notify directory and the journal"
    );
    repair.leave();
    assert!(!pid_file.exists() && !path.join(SOCKET).exists());
    drop(control);
    enter(&plan);
}

#[test]
fn a_pid_file_that_was_removed_while_there_was_no_master_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let plan = plan(dir.path());
    let pid_file = &plan.master.pid_file;
    let mut runtime_dir = enter(&plan);
    runtime_dir.write_pid().unwrap();
    let saved = runtime_dir.saved().unwrap();
    let (saved, mut table) = crate::sys::kept_fd::killed(runtime_dir, &saved);
    std::fs::remove_file(pid_file).unwrap();
    let mut runtime_dir = RuntimeDir::restore(saved, &mut table).unwrap();
    runtime_dir.write_pid().unwrap();
    let text = std::fs::read_to_string(pid_file).unwrap();
    assert_eq!(text, format!("{}\n", std::process::id()));
}

/// A repair replaces lock, pid file and perhaps the directory itself, and the master may die before that is saved.
#[test]
fn the_next_master_goes_on_with_what_was_saved_before_a_repair_or_after_it() {
    for saved_after in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan(dir.path());
        let mut runtime_dir = enter(&plan);
        runtime_dir.write_pid().unwrap();
        let repair = RuntimeDirRepair::new(runtime_dir);
        repair.repair(0o600, None).unwrap();
        let before = repair.saved().unwrap().unwrap();
        std::fs::remove_file(&plan.master.pid_file).unwrap();
        std::fs::remove_dir_all(&plan.master.runtime_dir).unwrap();
        repair.repair(0o600, None).unwrap();
        let after = repair.saved().unwrap().unwrap();
        repair.close_replaced(&before);
        let (saved, mut table) = if saved_after {
            repair.close_replaced(&after);
            crate::sys::kept_fd::killed(repair, &after)
        } else {
            let ((before, _), table) = crate::sys::kept_fd::killed(repair, &(before, after));
            (before, table)
        };
        let mut runtime_dir = RuntimeDir::restore(saved, &mut table).unwrap();
        drop(table);
        runtime_dir.write_pid().unwrap();
        let repair = RuntimeDirRepair::new(runtime_dir);
        repair.repair(0o600, None).unwrap();
        let me = std::process::id();
        let text = std::fs::read_to_string(&plan.master.pid_file).unwrap();
        assert_eq!(text, format!("{me}\n"));
        let path = plan.master.runtime_dir.clone();
        assert_eq!(lock_owner(&path), Some(me.cast_signed()));
    }
}
