//! What is refused, and by what name.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use ringtap::source::xsk::{Bind, XskConfig, XskError, XskSource, ZeroCopy};
use ringtap::xdp::{Attach, Options, Program, XdpError};

use crate::net::Net;

use crate::rig::*;

/// Tells a test that runs again in a child which namespace it is in.
const CHILD: &str = "RINGTAP_TEST_NET";

/// Runs a test again as a process of its own, which then does the child's part.
fn child(test: &str, net: &Net, through: &[&str]) -> Command {
    let mut words = through.iter().map(ToString::to_string).collect::<Vec<_>>();
    words.push(env::current_exe().unwrap().display().to_string());
    words.extend(["--exact", "--nocapture"].map(str::to_owned));
    words.push(format!("root::setup::{test}"));
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).env(CHILD, net.namespace());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[test]
fn a_program_that_is_there_already_is_named_and_left_alone() {
    let net = Net::new("taken", MTU);
    let foreign = load(&net, false);
    let program = load(&net, false);
    let theirs = foreign.attach(Some(Attach::Generic)).unwrap();
    let error = program.attach(None).unwrap_err();
    let XdpError::Taken { id, name, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(name, "ringtap");
    assert!(net.show().contains(&format!("id {id} ")), "{}", net.show());
    assert!(
        error
            .to_string()
            .contains(&format!("program {id} (ringtap)")),
        "{error}"
    );
    theirs.detach().unwrap();
    program.attach(None).unwrap().detach().unwrap();
    assert!(!net.show().contains("prog/xdp"));
}

#[test]
fn a_jumbo_link_refuses_a_program_for_single_buffers_with_the_kernels_word() {
    let net = Net::new("range", 9_000);
    let program = load(&net, false);
    let error = program.attach(Some(Attach::Native)).unwrap_err();
    let XdpError::Refused {
        mode: Attach::Native,
        cause,
        ..
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!(cause.raw_os_error(), Some(nix::libc::ERANGE));
    assert_eq!(program.attach(None).unwrap().mode(), Attach::Generic);
}

#[test]
fn a_queue_that_is_bound_is_busy_until_it_is_let_go() {
    let net = Net::new("busy", MTU);
    let program = load(&net, false);
    let config = XskConfig::for_mtu(MTU);
    let first = XskSource::open(&program, 0, &config).unwrap();
    let error = XskSource::open(&program, 0, &config).unwrap_err();
    assert!(matches!(error, XskError::Busy { queue: 0, .. }), "{error}");
    drop(first);
    for _ in 0..5 {
        drop(XskSource::open(&program, 0, &config).unwrap());
    }
}

#[test]
fn what_the_interface_does_not_have_is_refused_with_the_kernels_word() {
    let net = Net::new("refused", MTU);
    let program = load(&net, false);
    let config = XskConfig {
        zero_copy: ZeroCopy::Require,
        ..XskConfig::for_mtu(MTU)
    };
    let error = XskSource::open(&program, 0, &config).unwrap_err();
    assert!(
        matches!(
            error,
            XskError::Refused {
                mode: Bind::ZeroCopy,
                ..
            }
        ),
        "{error}"
    );
    let error = XskSource::open(&program, 7, &XskConfig::for_mtu(MTU)).unwrap_err();
    assert!(
        matches!(error, XskError::Refused { queue: 7, .. }),
        "{error}"
    );
}

#[test]
fn a_killed_process_leaves_nothing_attached() {
    if env::var_os(CHILD).is_some() {
        return attach_and_sleep();
    }
    let net = Net::new("kill", MTU);
    let mut child = child("a_killed_process_leaves_nothing_attached", &net, &[])
        .spawn()
        .unwrap();
    while !net.show().contains("prog/xdp") {
        assert!(child.try_wait().unwrap().is_none(), "the child ended early");
        thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while net.show().contains("prog/xdp") {
        assert!(Instant::now() < deadline, "{}", net.show());
        thread::sleep(Duration::from_millis(10));
    }
    // The queues are free as well.
    open_all(&load(&net, false), &XskConfig::for_mtu(MTU));
}

fn attach_and_sleep() {
    let options = Options {
        interface: "rx".into(),
        ifindex: nix::net::if_::if_nametoindex("rx").unwrap(),
        jumbo: false,
    };
    let program = Program::load(options).unwrap();
    let _sources = open_all(&program, &XskConfig::for_mtu(MTU));
    let _attached = program.attach(None).unwrap();
    thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_missing_right_is_named() {
    if let Ok(lacks) = env::var("RINGTAP_TEST_LACKS") {
        return lack(&lacks);
    }
    let net = Net::new("rights", MTU);
    for (lost, name) in [("-bpf,-sys_admin", "CAP_BPF"), ("-net_raw", "CAP_NET_RAW")] {
        let bounding = format!("--bounding-set={lost}");
        let status = child("a_missing_right_is_named", &net, &["setpriv", &bounding])
            .env("RINGTAP_TEST_LACKS", name)
            .status()
            .unwrap();
        assert!(status.success(), "{name}");
    }
}

fn lack(lacks: &str) {
    let options = Options {
        interface: "rx".into(),
        ifindex: nix::net::if_::if_nametoindex("rx").unwrap(),
        jumbo: false,
    };
    let error = match Program::load(options) {
        Ok(program) => match XskSource::open(&program, 0, &XskConfig::for_mtu(MTU)) {
            Err(XskError::Program(error)) => error,
            other => panic!("{other:?}"),
        },
        Err(error) => error,
    };
    assert!(
        error.to_string().ends_with(&format!("lacks {lacks}")),
        "{error}"
    );
}
