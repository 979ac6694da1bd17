//! The command line as a contract: exit codes, and errors that say what is wrong and how to mend it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use support::sensor::Start;
use support::{RINGTAP, balanced, code, count, printed, ringtap, said, sound, verify};

/// Asserts that `ringtap WORDS` ends with this code and says all of `texts` on standard error.
fn refused(expected: i32, words: &[&str], texts: &[&str]) {
    let output = ringtap(words);
    let said = said(&output);
    assert_eq!(code(&output), expected, "{words:?}: {said}");
    for text in texts {
        assert!(said.contains(text), "{words:?}: no `{text}` in: {said}");
    }
}

/// The same for `ringtap capture WORDS`.
fn capture_refused(expected: i32, words: &[&str], texts: &[&str]) {
    refused(expected, &[&["capture"], words].concat(), texts);
}

#[test]
fn wrong_usage_is_2_and_says_what_would_be_right() {
    refused(2, &[], &["Usage: ringtap <COMMAND>"]);
    refused(2, &["captur"], &["captur", "capture"]);
    capture_refused(2, &["--snapln", "9"], &["--snapln", "--snaplen"]);
    capture_refused(2, &["-i"], &["--interface <IF>"]);
    capture_refused(2, &["-c", "many"], &["many", "--count <COUNT>"]);
    capture_refused(2, &[], &["-i", "-r", "--source synthetic"]);
}

#[test]
fn values_that_break_a_rule_are_2_and_are_named_with_it() {
    for (words, texts) in [
        ("-i lo -r file", &["-i, -r and --source"] as &[_]),
        ("-i lo -i lo --sink discard", &["lo", "twice"]),
        ("-i any -i any --sink discard", &["any", "twice"]),
        (
            "--source synthetic --sink discard --buffer 1000TiB",
            &["buffer", "memory"],
        ),
        ("--source synthetic,size=1", &["size=1", "60 to 9014"]),
        ("--source random", &["random", "synthetic"]),
        ("-i lo --frames 1000", &["frames = 1000", "power of two"]),
        ("-i lo -s 300000", &["snaplen = 300000", "262144"]),
        ("-i lo --buffer 1MiB", &["buffer", "four batches"]),
        ("-i lo --queues 1-x", &["queues = 1-x"]),
        ("-i lo --duration 0", &["duration = 0"]),
        ("-i lo --speed recorded", &["--speed", "-r"]),
        ("-i lo --mode xdp -Q out", &["-Q out", "--mode xdp"]),
        (
            "-i lo --metrics=localhost",
            &["metrics = localhost", "127.0.0.1:9465"],
        ),
        ("-i lo -f udp tcp", &["one filter"]),
        ("-i lo -F /nonexistent", &["filter-file", "/nonexistent"]),
    ] {
        let words: Vec<_> = words.split(' ').collect();
        capture_refused(2, &words, texts);
    }
}

#[test]
fn a_malformed_filter_is_2_with_the_words_of_libpcap() {
    let discard = ["-i", "lo", "--sink", "discard"];
    capture_refused(
        2,
        &[&discard[..], &["tcp", "porrt", "80"]].concat(),
        &["tcp porrt 80", "syntax error"],
    );
    capture_refused(
        2,
        &[&discard[..], &["-f", "udp and and"]].concat(),
        &["udp and and", "can't parse filter expression"],
    );
}

#[test]
fn settings_for_kafka_that_cannot_be_are_2() {
    for (words, texts) in [
        (
            "-k b:1 -X compression.typ=lz4",
            &["compression.typ", "compression.type"] as &[_],
        ),
        ("-k b:1 -X linger.ms=soon", &["linger.ms", "soon"]),
        ("-k b:1 -X acks", &["key=value"]),
        ("-k b:99999", &["b:99999", "65535", "host:port"]),
        ("-k b:1,,c:1", &["host:port"]),
        ("-k ::1:9092", &["[::1]:9092"]),
        ("-t topic", &["-k HOST:PORT"]),
        ("--key-time ms", &["--key-time", "-k"]),
        ("-k b:1 --fastcapa-config /nonexistent", &["/nonexistent"]),
    ] {
        let words = format!("-i lo {words}");
        let words: Vec<_> = words.split(' ').collect();
        capture_refused(2, &words, texts);
    }
}

#[test]
fn an_unknown_interface_is_3_with_the_nearest_name() {
    capture_refused(3, &["-i", "loo"], &["loo", "nearest: lo"]);
    capture_refused(
        3,
        &["-i", "wholly-different"],
        &["no interface wholly-different"],
    );
}

#[test]
fn what_cannot_be_opened_is_3_with_the_reason() {
    for (words, texts) in [
        ("-r /nonexistent -w -", &["/nonexistent", "No such file"]),
        (
            "--source synthetic -w /nonexistent/file",
            &["/nonexistent/file", "No such file"],
        ),
        ("--source synthetic -w /", &["/", "Is a directory"]),
    ] {
        let words: Vec<_> = words.split(' ').collect();
        capture_refused(3, &words, texts);
    }
}

#[test]
fn a_broker_that_does_not_answer_is_3_and_named() {
    let words = ["--source", "synthetic", "-k", "127.0.0.1:1", "-t", "pcap"];
    capture_refused(3, &words, &["127.0.0.1:1", "Connection refused"]);
}

#[test]
fn a_port_that_is_taken_is_3_and_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let metrics = format!("--metrics={address}");
    let words = ["--source", "synthetic", "--sink", "discard", &metrics];
    capture_refused(3, &words, &[&address, "in use"]);
}

#[test]
fn a_configuration_file_is_checked_with_line_and_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ringtap.toml");
    let file = path.to_str().unwrap();
    for (text, texts) in [
        (
            "interfce = [\"lo\"]\n",
            &["interfce", "interface", "line 1"] as &[_],
        ),
        ("interface = \"lo\"\n", &["interface", "line 1"]),
        ("interface = [\"lo\"]\nframes = 1000\n", &["frames = 1000"]),
        ("interface = [\n", &["line"]),
        ("interface = [\"lo\"]\nbrokers = \"b:0\"\n", &["b:0"]),
    ] {
        fs::write(&path, text).unwrap();
        let words = ["--config", file, "--check-config"];
        capture_refused(
            2,
            &words,
            &[&[file], texts].concat()[usize::from(text.contains("]\n"))..],
        );
    }
    capture_refused(2, &["--config", "/nonexistent"], &["/nonexistent"]);
}

#[test]
fn a_configuration_that_holds_is_0_and_flags_win_over_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ringtap.toml");
    fs::write(
        &path,
        "interface = [\"nosuch0\"]\nsnaplen = 96\nsink = \"discard\"\n",
    )
    .unwrap();
    let file = path.to_str().unwrap();
    let output = ringtap(["capture", "--config", file, "--check-config"]);
    assert_eq!(code(&output), 0, "{}", said(&output));
    let output = ringtap(["capture", "--config", file, "-s", "128", "--print-config"]);
    let shown = printed(&output);
    assert!(shown.contains("snaplen = 128"), "{shown}");
    assert!(shown.contains("nosuch0"), "{shown}");
    fs::write(&path, &shown).unwrap();
    let again = ringtap(["capture", "--config", file, "--print-config"]);
    assert_eq!(
        printed(&again),
        shown,
        "what is printed reads back as the same"
    );
}

#[test]
fn the_documented_configuration_holds() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/ringtap.toml");
    let output = ringtap([
        "capture",
        "--config",
        path.to_str().unwrap(),
        "--check-config",
    ]);
    assert_eq!(code(&output), 0, "{}", said(&output));
}

#[test]
fn secrets_are_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    fs::write(&password, "from-a-file\n").unwrap();
    let from_file = format!("sasl.password=@{}", password.display());
    let base = ["capture", "-i", "lo", "-k", "b:1"];
    for (words, secret) in [
        (vec!["-X", "sasl.password=open-sesame"], "open-sesame"),
        (vec!["-X", &from_file], "from-a-file"),
        (
            vec!["-X", "sasl.jaas.config=x password=\"hidden-one\""],
            "hidden-one",
        ),
        (
            vec!["-X", "ssl.key.password=in-the-dark", "-X", "acks=5x"],
            "in-the-dark",
        ),
    ] {
        let output = ringtap(base.iter().copied().chain(words).chain(["--print-config"]));
        let all = printed(&output) + &said(&output);
        assert!(!all.contains(secret), "{all}");
    }
    let output = Command::new(RINGTAP)
        .args(base)
        .args(["-X", "sasl.mechanism=PLAIN", "--print-config"])
        .env("RINGTAP_KAFKA_SASL_PASSWORD", "from-the-air")
        .output()
        .unwrap();
    assert_eq!(code(&output), 0, "{}", said(&output));
    assert!(!printed(&output).contains("from-the-air"));
}

#[test]
fn interfaces_are_listed_with_what_each_can_do() {
    let output = ringtap(["capture", "-D"]);
    assert_eq!(code(&output), 0, "{}", said(&output));
    let table = printed(&output);
    let lo = table.lines().find(|line| line.starts_with("lo ")).unwrap();
    assert!(lo.contains("65536"), "{table}");
    assert!(
        table.contains("auto: pcap (lo has the address 127.0.0.1)"),
        "{table}"
    );
}

#[test]
fn help_version_completions_and_man_pages_are_0() {
    for words in [
        &["--help"] as &[_],
        &["--version"],
        &["capture", "--help"],
        &["help", "capture"],
    ] {
        let output = ringtap(words);
        assert_eq!(code(&output), 0, "{words:?}");
        assert!(printed(&output).contains("ringtap") || words.contains(&"capture"));
    }
    for shell in ["bash", "zsh", "fish"] {
        let output = ringtap(["completions", shell]);
        assert_eq!(code(&output), 0);
        assert!(printed(&output).contains("check-config"), "{shell}");
    }
    let script = printed(&ringtap(["completions", "bash"]));
    support::run("bash", ["-n", "-c", &script]);

    let folder = tempfile::tempdir().unwrap();
    let output = ringtap(["man", folder.path().to_str().unwrap()]);
    assert_eq!(code(&output), 0, "{}", said(&output));
    let page = fs::read_to_string(folder.path().join("ringtap-capture.1")).unwrap();
    assert!(page.contains("snaplen"), "{page}");
    let help = printed(&ringtap(["capture", "--help"]));
    for exit in 0..=6 {
        assert!(help.contains(&format!("\n  {exit}  ")), "{help}");
    }
}

/// A capture file of 100 numbered frames, and what a generator would have said of them.
fn small(folder: &Path) -> (Vec<u8>, serde_json::Value) {
    let path = folder.join("small.pcapng");
    let words = [
        "capture",
        "--source",
        "synthetic,size=imix",
        "-c",
        "100",
        "-q",
        "-w",
    ];
    let output = Command::new(RINGTAP)
        .args(words)
        .arg(&path)
        .output()
        .unwrap();
    assert_eq!(code(&output), 0, "{}", said(&output));
    let sent = serde_json::json!({"streams": [{"stream": 0, "frames": 100}]});
    (fs::read(path).unwrap(), sent)
}

#[test]
fn a_capture_cut_anywhere_keeps_what_came_before_and_is_6() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, sent) = small(folder.path());
    let cut = folder.path().join("cut.pcapng");
    let cut_words = format!("-r {} -w {{}}/wire.pcapng", cut.display());
    for length in [
        whole.len() - 1,
        whole.len() / 2 + 3,
        whole.len() / 3 + 1,
        200,
    ] {
        fs::write(&cut, &whole[..length]).unwrap();
        let ended = Start::new(&cut_words).run();
        let ended = ended.saying(6, &["cut.pcapng", "what came before it is kept"]);
        let ledger = ended.ledger();
        balanced(&ledger);
        let kept = count(&ledger, "/total/delivered");
        assert_eq!(
            100 - kept,
            sound(&verify(&ended.file("wire.pcapng"), &sent))
        );
        assert!(
            kept <= 100 && (length > 200 || kept < 10),
            "{kept} of {length} bytes"
        );
    }
    for (bytes, text) in [
        (&b""[..], "empty"),
        (b"neither this nor that", "cut.pcapng"),
    ] {
        fs::write(&cut, bytes).unwrap();
        Start::new(&cut_words).run().saying(6, &[text]);
    }
}

#[test]
fn several_files_are_read_one_after_another_and_a_damaged_one_does_not_end_it() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, sent) = small(folder.path());
    let cut = folder.path().join("cut.pcapng");
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let both = folder.path().join("small.pcapng");
    let words = format!(
        "-r {} -r {} -w {{}}/wire.pcapng",
        cut.display(),
        both.display()
    );
    let ended = Start::new(&words).run().with(6);
    let ledger = ended.ledger();
    balanced(&ledger);
    let report = verify(&ended.file("wire.pcapng"), &sent);
    assert_eq!(report["streams"]["0"]["missing"], 0, "{report:#}");
    let twice = count(&ledger, "/total/delivered") - 100;
    assert_eq!(report["streams"]["0"]["duplicated"], twice, "{report:#}");
    assert!(twice > 0);
}

#[test]
fn a_file_that_is_read_is_not_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, _) = small(folder.path());
    let file = folder.path().join("small.pcapng");
    let link = folder.path().join("link.pcapng");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    for output in [&file, &link] {
        let words = format!("-r {} -w {}", file.display(), output.display());
        let words: Vec<_> = words.split(' ').collect();
        capture_refused(2, &words, &["a file that is read"]);
        assert!(fs::read(&file).unwrap() == whole, "as it was");
    }
}

#[test]
fn log_lines_that_nobody_reads_do_not_end_a_capture() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger.json");
    let mut child = Command::new(RINGTAP)
        .args(["capture", "--source", "synthetic", "-c", "10", "-vv"])
        .args(["--sink", "discard", "--ledger"])
        .arg(&ledger)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    balanced(&support::json(&ledger));
}

#[test]
fn with_json_every_line_is_json() {
    let words = "capture --source synthetic -c 10 --sink discard --log-format json";
    let output = ringtap(words.split(' '));
    assert_eq!(code(&output), 0);
    let said = said(&output);
    let lines: Vec<serde_json::Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    let summary = lines.last().unwrap()["message"].as_str().unwrap();
    assert!(summary.contains("unaccounted 0"), "{summary}");
}

/// Sends SIGINT to `ringtap capture WORDS` once it runs, and returns its end.
fn interrupted(words: &[&str]) -> std::process::Output {
    let child = Command::new(RINGTAP)
        .args(["capture", "--source", "synthetic", "-v"])
        .args(words)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn an_interrupt_ends_the_wait_for_a_reader_of_a_named_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let output = interrupted(&["-w", pipe.to_str().unwrap()]);
    assert_eq!(code(&output), 3, "{}", said(&output));
    assert!(said(&output).contains("interrupted"), "{}", said(&output));
}

#[test]
fn an_interrupt_ends_the_wait_for_a_broker() {
    // It takes connections and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let output = interrupted(&["-k", &address]);
    assert_eq!(code(&output), 3, "{}", said(&output));
    assert!(said(&output).contains("interrupted"), "{}", said(&output));
    assert!(said(&output).contains(&address), "{}", said(&output));
}

#[test]
fn a_capture_is_read_from_standard_input_and_written_to_standard_output() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, sent) = small(folder.path());
    let mut child = Command::new(RINGTAP)
        .args(["capture", "-r", "-", "-w", "-", "-q"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, &whole).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 0);
    let path = folder.path().join("out.pcapng");
    fs::write(&path, &output.stdout).unwrap();
    assert_eq!(sound(&verify(&path, &sent)), 0);
}

#[test]
fn a_capture_without_a_sink_writes_a_file_named_by_interface_and_time() {
    let ended = Start::new("--source synthetic -c 10").run().with(0);
    let files = fs::read_dir(ended.file("")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let named: Vec<_> = names.filter(|name| name.ends_with(".pcapng")).collect();
    assert_eq!(named.len(), 1, "{named:?}");
    assert!(named[0].starts_with("synthetic-20"), "{named:?}");
    let said = format!("to file {}\n", named[0]);
    assert!(ended.log.contains(&said), "{}", ended.log);
}

mod root {
    use super::*;

    /// Writes 2 MB to a file system of 1 MiB, in a mount namespace of its own, and checks the file.
    const SCRIPT: &str = "mount -t tmpfs -o size=1m none /mnt || exit 99
        $0 capture --source synthetic,size=1000 -c 2000 -w /mnt/full.pcapng --ledger ledger.json
        code=$?
        $0 verify /mnt/full.pcapng >verified.json
        exit $code";

    #[test]
    fn a_full_disk_is_counted_and_the_file_ends_with_a_whole_packet() {
        let folder = tempfile::tempdir().unwrap();
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-c", SCRIPT, RINGTAP])
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert_eq!(code(&output), 4, "{}", said(&output));
        let ledger = support::json(&folder.path().join("ledger.json"));
        balanced(&ledger);
        let kept = count(&ledger, "/total/delivered");
        assert_eq!(count(&ledger, "/failed/reasons/disk"), 2_000 - kept);
        let report = support::json(&folder.path().join("verified.json"));
        sound(&report);
        assert_eq!(support::over_streams(&report, "received"), kept);
        assert!(kept > 500, "{kept}");
    }
}
