//! The embedded store as files: what is left of it at an end, copies of it, files that are taken away from under it, and
//! files that are no store.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rusqlite::Connection as Database;
use rustix::process::{Pid, Signal, kill_process};

use crate::cli::{Done, Home};
use crate::http::{created, post_lines, wb_answered, wb_lines, wb_posted};
use crate::server::{SIGNAL_TIME, Server, binary, until};

/// Checks that nothing but `orders.db` holds orders, and that a copy of it alone is sound. Returns how many are in it.
#[track_caller]
fn one_file(data: &Path) -> u64 {
    let mut names: Vec<_> = fs::read_dir(data).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["lock", "orders.db"]);
    orders_of(&data.join("orders.db"))
}

/// The orders in a copy of one database file, which must be sound.
#[track_caller]
fn orders_of(file: &Path) -> u64 {
    let home = tempfile::tempdir().unwrap();
    let copy = home.path().join("copy.db");
    fs::copy(file, &copy).unwrap();
    let database = Database::open(&copy).unwrap();
    let finding: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(finding, "ok", "{}", file.display());
    database.query_row("SELECT count(*) FROM orders", [], |row| row.get::<_, i64>(0)).unwrap().unsigned_abs()
}

/// Posts orders `PREFIX-0`, `PREFIX-1`, … until told to end or not answered, and counts those that are durable.
struct Poster {
    answered: AtomicUsize,
    is_ended: AtomicBool,
}

impl Poster {
    const fn new() -> Self {
        Self { answered: AtomicUsize::new(0), is_ended: AtomicBool::new(false) }
    }

    fn answered(&self) -> usize {
        self.answered.load(Ordering::SeqCst)
    }

    fn end(&self) {
        self.is_ended.store(true, Ordering::SeqCst);
    }

    fn post(&self, address: std::net::SocketAddr, prefix: &str) {
        let Ok(mut connection) = crate::server::Connection::try_open(address) else { return };
        for n in 0.. {
            let body = wb_answered(&format!("{prefix}-{n}"));
            let head = format!(
                "POST /orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            if connection.try_send(head).is_err() || !connection.is_answered() {
                return;
            }
            let reply = connection.reply("POST");
            if reply.status != 201 || self.is_ended.load(Ordering::SeqCst) {
                return;
            }
            self.answered.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[test]
fn a_stop_under_load_leaves_one_file_with_all_that_was_answered() {
    let mut server = Server::start(&["--sample", "2000"]);
    let mut answered = 0;
    for round in 0..6 {
        let poster = Poster::new();
        let address = server.address();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let poster = &poster;
                scope.spawn(move || poster.post(address, &format!("r{round}-{thread}")));
            }
            until("orders are stored", SIGNAL_TIME, || (poster.answered() >= 20).then_some(()));
            assert_eq!(server.stop().code(), Some(0));
        });
        answered += poster.answered() as u64;
        assert!(one_file(&server.data()) >= 2000 + answered, "answered orders are missing after stop {round}");
        // Also where it is told to stop while it still reads what is stored.
        server.start_again_cold();
        assert_eq!(server.stop().code(), Some(0));
        one_file(&server.data());
        server.start_again();
    }
}

#[test]
fn every_command_leaves_one_file() {
    let home = Home::new();
    let data = home.path().join("data");
    home.write("good.ndjson", wb_lines("g", 300));
    home.run(&["import", "good.ndjson"]).expect(0);
    assert_eq!(one_file(&data), 300);
    home.write("bad.ndjson", wb_lines("h", 2) + "{\n");
    home.run(&["import", "bad.ndjson"]).expect(1);
    assert_eq!(one_file(&data), 302);
    // After a crash there is a log, and whatever comes first folds it.
    home.write("more.ndjson", wb_lines("m", 3000));
    for (index, command) in [
        &["export", "-o", "out"][..],
        &["backup", "copy"],
        &["migrate", "status"],
        &["migrate", "up"],
        &["import", "good.ndjson"],
    ]
    .iter()
    .enumerate()
    {
        let nth = format!("store-written:{}", index + 2);
        home.run_with(&["import", "more.ndjson", "--batch-rows-max", "100"], &[("ORDER_DIE_AT", nth.as_str())]);
        assert!(fs::metadata(data.join("orders.db-wal")).unwrap().len() > 0, "it was killed in the middle");
        home.run(command).expect(0);
        one_file(&data);
    }
    // A start that fails behind the store.
    let reply = home.run(&["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log", "loud"]);
    reply.expect(78);
    one_file(&data);
}

#[test]
fn an_import_that_is_told_to_stop_leaves_one_file() {
    for signal in [Signal::TERM, Signal::INT] {
        let home = Home::new();
        let import = ["import", "-", "--data", "data"];
        let mut child = binary(home.path()).args(import).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(wb_lines("i", 3000).as_bytes()).unwrap();
        let file = home.path().join("data/orders.db");
        until("orders are imported", SIGNAL_TIME, || {
            let database = Database::open_with_flags(&file, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
            let count: i64 = database.query_row("SELECT count(*) FROM orders", [], |row| row.get(0)).ok()?;
            (count > 0).then_some(())
        });
        kill_process(Pid::from_child(&child), signal).unwrap();
        let done = Done::wait(child, &import).expect(1);
        assert!(done.err.contains("interrupted"), "{}", done.err);
        drop(input);
        assert!(one_file(&home.path().join("data")) > 0);
    }
}

#[test]
fn a_backup_beside_writers_holds_all_that_was_answered_before_it() {
    let mut server = Server::start(&[]);
    post_lines(&server, &wb_lines("first", 2000));
    let home = Home::new();
    let data = server.data();
    let backup = ["backup", "orders.backup", "--data", data.to_str().unwrap()];
    let copy = home.path().join("orders.backup");
    let poster = Poster::new();
    let address = server.address();
    let mut counts = Vec::new();
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let poster = &poster;
            scope.spawn(move || poster.post(address, &format!("w{thread}")));
        }
        for _ in 0..3 {
            until("an order is stored", SIGNAL_TIME, || (poster.answered() > 0).then_some(()));
            let before = poster.answered() as u64;
            home.run(&backup).expect(0);
            counts.push((2000 + before, orders_of(&copy)));
        }
        poster.end();
    });
    for (least, found) in &counts {
        assert!(found >= least, "{counts:?}");
    }
    let names: Vec<_> = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["orders.backup"], "one file, and nothing half done");
    // Put back over the file of a store that ended in order, five times: no old log spoils it.
    let (_, expected) = counts[2];
    for n in 0..5 {
        created(&server, wb_posted(&format!("later-{n}")));
        assert_eq!(server.stop().code(), Some(0));
        fs::copy(&copy, data.join("orders.db")).unwrap();
        server.start_again();
        assert_eq!(server.get("/api/stats").expect(200).json()["total_orders"], expected);
        server.get(&format!("/order/later-{n}")).expect(404);
        assert_eq!(server.get("/order/first-1999").expect(200).text(), wb_answered("first-1999"));
    }
}

#[test]
fn a_backup_beside_the_log_that_a_crash_left_is_not_spoilt_by_it() {
    let mut server = Server::start(&[]);
    post_lines(&server, &wb_lines("kept", 500));
    let home = Home::new();
    let data = server.data();
    let copy = home.path().join("copy");
    home.run(&["backup", "copy", "--data", data.to_str().unwrap()]).expect(0);
    post_lines(&server, &wb_lines("later", 500));
    server.kill();
    let log = data.join("orders.db-wal");
    assert!(fs::metadata(&log).unwrap().len() > 0);
    fs::copy(&copy, data.join("orders.db")).unwrap();
    let flags = ["--data", data.to_str().unwrap()];
    for command in [SERVE, &["migrate", "up"], &["export"], &["backup", "copy"]] {
        let done = home.run(&[command, &flags].concat()).expect(1);
        assert!(done.err.contains("orders.db-wal: it is the log of another file"), "{command:?}: {}", done.err);
    }
    fs::remove_file(log).unwrap();
    server.start_again();
    assert_eq!(server.get("/api/stats").expect(200).json()["total_orders"], 500);
    assert_eq!(server.stop().code(), Some(0));
    assert_eq!(one_file(&data), 500);
}

#[test]
fn a_backup_that_fails_says_why_and_leaves_what_was_there() {
    let home = Home::new();
    home.write("some.ndjson", wb_lines("x", 3000));
    home.run(&["import", "some.ndjson"]).expect(0);
    let data = home.path().join("data");
    for own in ["data/orders.db", "./data/../data/orders.db", "data/orders.db-wal", "data/lock"] {
        let done = home.run(&["backup", own]).expect(1);
        assert!(done.err.contains(own) && done.err.contains("belongs to the store"), "{}", done.err);
    }
    std::os::unix::fs::symlink("data/orders.db", home.path().join("link")).unwrap();
    assert!(home.run(&["backup", "link"]).expect(1).err.contains("belongs to the store"));
    assert!(home.run(&["backup", "data"]).expect(1).err.contains("directory"));
    let done = home.run(&["backup", "missing/copy"]).expect(1);
    assert!(done.err.contains("missing/copy") && done.err.contains("No such file"), "{}", done.err);
    let done = home.run(&["backup", "copy", "--data", "none"]).expect(1);
    assert!(done.err.contains("none/orders.db") && done.err.contains("No such file"), "{}", done.err);
    let done = home.run(&["backup", "copy", "--postgres", "postgres://127.0.0.1:1/x"]).expect(78);
    assert!(done.err.contains("pg_dump"), "{}", done.err);
    home.run(&["backup", "copy"]).expect(0);
    damage_middle(&data.join("orders.db"));
    let good = fs::read(home.path().join("copy")).unwrap();
    let done = home.run(&["backup", "copy"]).expect(1);
    assert!(done.err.contains("data/orders.db is damaged"), "{}", done.err);
    assert!(fs::read(home.path().join("copy")).unwrap() == good, "the backup before it stays");
    assert!(!home.path().join("copy.partial").exists());
}

/// Overwrites pages in the middle of a database.
fn damage_middle(file: &Path) {
    let mut database = fs::File::options().write(true).open(file).unwrap();
    let pages = database.metadata().unwrap().len() / 8192;
    database.seek(SeekFrom::Start(pages / 2 * 8192)).unwrap();
    database.write_all(&vec![0xa5; 4 * 8192]).unwrap();
}

/// What is done to the files of a running service, and what it then says.
struct Theft {
    harm: &'static str,
    named: &'static str,
    commit: fn(&Path),
    undo: Option<fn(&Path)>,
    /// Whether the next start has the orders.
    is_kept: bool,
}

fn thefts() -> Vec<Theft> {
    let removed = |named, commit, is_kept| Theft { harm: "removed", named, commit, undo: None, is_kept };
    vec![
        removed("orders.db", |data| fs::remove_file(data.join("orders.db")).unwrap(), false),
        removed("orders.db-wal", |data| fs::remove_file(data.join("orders.db-wal")).unwrap(), true),
        removed("orders.db-shm", |data| fs::remove_file(data.join("orders.db-shm")).unwrap(), true),
        removed("orders.db", |data| fs::remove_dir_all(data).unwrap(), false),
        Theft {
            harm: "removed",
            named: "orders.db",
            commit: |data| fs::rename(data, data.with_extension("aside")).unwrap(),
            undo: Some(|data| fs::rename(data.with_extension("aside"), data).unwrap()),
            is_kept: true,
        },
        Theft {
            harm: "replaced",
            named: "orders.db",
            commit: |data| {
                fs::copy(data.with_extension("backup"), data.join("new")).unwrap();
                fs::rename(data.join("new"), data.join("orders.db")).unwrap();
            },
            undo: None,
            is_kept: false,
        },
        Theft {
            harm: "truncated",
            named: "orders.db",
            commit: |data| fs::File::options().write(true).open(data.join("orders.db")).unwrap().set_len(100).unwrap(),
            undo: None,
            is_kept: false,
        },
    ]
}

#[test]
fn without_its_files_a_service_stores_nothing_says_so_and_still_reads() {
    for Theft { harm, named, commit, undo, is_kept } in thefts() {
        let mut server = Server::start(&[]);
        let data = server.data();
        created(&server, wb_posted("backed-up"));
        let backup = data.with_extension("backup");
        Home::new().run(&["backup", backup.to_str().unwrap(), "--data", data.to_str().unwrap()]).expect(0);
        post_lines(&server, &wb_lines("x", 100));
        let is_lost = format!("store_lost{{harm=\"{harm}\"}}");
        assert!(server.metric(&is_lost) < 0.5);
        commit(&data);
        let refused = server.post("/orders", wb_posted("lost")).expect(503);
        assert_eq!(refused.json()["reason"], "store_lost", "{harm} {named}");
        assert!(refused.header("Retry-After").is_some());
        let lines = server
            .request("POST", "/orders", &[("Content-Type", "application/x-ndjson")], wb_lines("l", 3))
            .expect(200);
        assert_eq!(lines.text().matches("store_lost").count(), 3, "{}", lines.text());
        let reason = until("it is not ready", SIGNAL_TIME, || {
            let reply = server.get("/readyz");
            (reply.status == 503).then(|| reply.text().to_owned())
        });
        assert!(reason.contains(&format!("{named} was {harm}")), "{reason}");
        assert!(server.metric(&is_lost) > 0.5);
        assert!(server.metric("service_ready") < 0.5);
        assert_eq!(server.get("/order/x-99").expect(200).text(), wb_answered("x-99"));
        server.get("/order/lost").expect(404);
        until("the count is right", SIGNAL_TIME, || {
            (server.get("/api/stats").expect(200).json()["total_orders"] == 101).then_some(())
        });
        if let Some(undo) = undo {
            undo(&data);
            created(&server, wb_posted("after"));
            server.wait_ready();
            assert_eq!(server.stop().code(), Some(0));
        } else {
            assert_eq!(server.stop().code(), Some(1), "{harm} {named}: what was answered is not in order");
            let log = server.log().join("\n");
            assert!(log.contains(&format!("{named} was {harm}")), "{log}");
        }
        if harm == "truncated" {
            continue;
        }
        server.start_again();
        assert_eq!(server.get("/order/x-99").status, if is_kept { 200 } else { 404 }, "{harm} {named}");
        // What took its place is not spoilt by the log of the one before.
        assert_eq!(server.get("/order/backed-up").status, if is_kept || harm == "replaced" { 200 } else { 404 });
        assert_eq!(server.stop().code(), Some(0));
        one_file(&data);
    }
}

/// A store of some orders that ended in order.
fn filled() -> (Home, PathBuf) {
    let home = Home::new();
    home.write("some.ndjson", wb_lines("x", 3000));
    home.run(&["import", "some.ndjson"]).expect(0);
    let file = home.path().join("data/orders.db");
    (home, file)
}

const SERVE: &[&str] = &["serve", "--listen", "127.0.0.1:0"];

#[test]
fn a_store_that_cannot_be_used_ends_every_command_with_its_name_and_the_reason() {
    type Prepare = fn(&Path);
    let cases: [(&str, i32, &str, Prepare); 9] = [
        ("a damaged header", 1, "not a database", |file| {
            fs::File::options().write(true).open(file).unwrap().write_all(&[0; 4096]).unwrap();
        }),
        ("a truncated file", 1, "malformed", |file| {
            let file = fs::File::options().write(true).open(file).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        }),
        ("a file cut within a page", 1, "", |file| {
            fs::File::options().write(true).open(file).unwrap().set_len(5000).unwrap();
        }),
        ("an empty file", 1, "empty", |file| drop(fs::File::create(file).unwrap())),
        ("a text", 1, "not a database", |file| fs::write(file, "orders\n".repeat(3000)).unwrap()),
        ("a directory", 78, "directory", |file| {
            fs::remove_file(file).unwrap();
            fs::create_dir(file).unwrap();
        }),
        ("another application's database", 78, "another application", |file| {
            fs::remove_file(file).unwrap();
            Database::open(file).unwrap().execute_batch("CREATE TABLE a (b)").unwrap();
        }),
        ("a newer schema", 78, "newer", |file| {
            Database::open(file).unwrap().pragma_update(None, "user_version", 99).unwrap();
        }),
        ("a directory in the place of the log", 78, "directory", |file| {
            fs::create_dir(file.with_extension("db-wal")).unwrap();
        }),
    ];
    for (what, code, reason, prepare) in cases {
        let (home, file) = filled();
        prepare(&file);
        for command in [
            SERVE,
            &["import", "some.ndjson"],
            &["export", "-o", "out"],
            &["backup", "copy"],
            &["migrate", "up"],
            &["migrate", "status"],
        ] {
            let is_reading = matches!(command, ["export" | "backup", ..] | ["migrate", "status"]);
            if is_reading && what == "a directory in the place of the log" {
                continue;
            }
            let done = home.run(command).expect(code);
            let line = done.err.lines().last().unwrap_or_default();
            assert!(line.contains("orders.db") && line.contains(reason), "{what}, {command:?}: {}", done.err);
            assert!(!home.path().join("copy").exists(), "{what}");
            if what == "another application's database" {
                let mode = Database::open(&file).unwrap().pragma_query_value(None, "journal_mode", |row| row.get(0));
                assert_eq!(mode, Ok("delete".to_owned()), "it is left as it is");
            }
        }
    }
}

#[test]
fn a_first_start_that_was_cut_short_is_no_damage() {
    let home = Home::new();
    fs::create_dir(home.path().join("data")).unwrap();
    home.write("data/lock", "");
    home.write("data/orders.db", "");
    home.write("some.ndjson", wb_lines("x", 3));
    home.run(&["import", "some.ndjson"]).expect(0);
    assert_eq!(one_file(&home.path().join("data")), 3);
}

#[test]
fn damage_in_the_middle_ends_the_start_instead_of_being_tried_for_ever() {
    for flags in [&[][..], &["--cache-bytes-max", "64MiB"]] {
        let (home, file) = filled();
        damage_middle(&file);
        let done = home.run(&[SERVE, flags].concat()).expect(1);
        let line = done.err.lines().last().unwrap_or_default();
        assert!(line.contains("data/orders.db") && line.contains("malformed"), "{}", done.err);
        let done = home.run(&["export", "-o", "out"]).expect(1);
        assert!(done.err.contains("data/orders.db") && done.err.contains("malformed"), "{}", done.err);
    }
}

/// Pages of a mapped file count as memory of the process, and they would be more than the view may take.
#[test]
fn a_bounded_view_leaves_nothing_of_the_file_mapped() {
    let mut server = Server::start(&["--sample", "2000", "--cache-bytes-max", "1MiB"]);
    server.restart(); // its warm-up reads the file
    server.get("/order/unknown").expect(404);
    let lines = server.request("GET", "/api/orders", &[("accept", "application/x-ndjson")], "").expect(200);
    assert_eq!(lines.text().lines().count(), 2000);
    until("the scans to give their mappings back", SIGNAL_TIME, || {
        let maps = fs::read_to_string(format!("/proc/{}/maps", server.pid())).unwrap();
        assert!(maps.contains("order-service"), "{maps}");
        (!maps.lines().any(|line| line.ends_with("orders.db"))).then_some(())
    });
}

#[test]
fn a_data_directory_that_is_none_is_a_wrong_setting() {
    let home = Home::new();
    home.write("file", "text");
    for data in ["file", "file/below"] {
        let done = home.run(&[SERVE, &["--data", data]].concat()).expect(78);
        assert!(done.err.contains(data) && done.err.contains("ot a directory"), "{}", done.err);
    }
}

/// A user that owns nothing else, so that a process of theirs has no more rights than files give.
const OTHER_USER: u32 = 65534;

#[test]
fn without_rights_a_command_ends_with_the_file_it_has_none_on() {
    type Prepare = fn(&Path);
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let cases: [(&str, Prepare, &[&[&str]]); 3] = [
        ("data/orders.db", |data| set_mode(&data.join("orders.db"), 0o000), &[SERVE, &["export"], &["backup", "x"]]),
        ("data/orders.db", |data| set_mode(&data.join("orders.db"), 0o444), &[SERVE, &["import", "some.ndjson"]]),
        ("data", |data| set_mode(data, 0o555), &[SERVE, &["migrate", "up"]]),
    ];
    for (named, prepare, commands) in cases {
        let (home, file) = filled();
        let data = file.parent().unwrap();
        // Root may do everything, so that it must not be root who tries.
        let is_root = fs::metadata(home.path()).unwrap().uid() == 0;
        if is_root {
            for path in [home.path(), data, &file, &data.join("lock")] {
                chown(path, Some(OTHER_USER), Some(OTHER_USER)).unwrap();
            }
        }
        mode(home.path(), 0o755);
        prepare(data);
        for arguments in commands {
            let mut command = binary(home.path());
            if is_root {
                command.uid(OTHER_USER).gid(OTHER_USER);
            }
            let child = match command.args(*arguments).stdout(Stdio::piped()).spawn() {
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    eprintln!("skipped: another user may not run the binary");
                    return;
                }
                child => child.unwrap(),
            };
            let done = Done::wait(child, arguments).expect(78);
            let line = done.err.lines().last().unwrap_or_default();
            assert!(line.contains(named) && line.contains("ermission denied"), "{arguments:?}: {}", done.err);
        }
        mode(data, 0o755);
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_full_disk_ends_a_start_and_is_named() {
    let mounts = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-ec", script]);
        command
    };
    let probe = mounts("mount -t tmpfs none /mnt").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        crate::servers::skip_anywhere("this user may mount nothing");
        return;
    }
    let (home, _) = filled();
    let own = binary(home.path());
    let program = own.get_program().to_str().unwrap();
    // A new store, and one that is there; the disk has no byte left.
    for (fill, name) in [("", "full"), ("cp -r data/. full", "full/orders.db")] {
        let script = format!(
            "mkdir -p full; mount -t tmpfs -o size=6m none full; {fill}
             head -c 9000000 /dev/zero > full/filler 2> /dev/null || true
             exec {program} serve --listen 127.0.0.1:0 --data full"
        );
        let mut command = mounts(&script);
        command.current_dir(home.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let done = Done::wait(command.spawn().unwrap(), &[name]).expect(1);
        let line = done.err.lines().last().unwrap_or_default();
        let is_named = ["no storage space", "No space left", "disk is full"].iter().any(|words| line.contains(words));
        assert!(line.contains(name) && is_named, "{}", done.err);
    }
}
