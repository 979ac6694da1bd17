//! What is refused, and by what name.

use ringtap::source::xsk::{Bind, XskConfig, XskError, XskSource, ZeroCopy};
use ringtap::xdp::{Attach, XdpError};

use crate::net::Net;
use crate::rig::*;

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
