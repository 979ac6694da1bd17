//! What ringtap knows of interfaces, on veth pairs in network namespaces of its own.
//!
//! The rule: `/sys` stays that of the machine's first namespace; what is asked must not come from it.

#[cfg(test)]
mod root {
    use std::fs::{self, File};
    use std::io::{BufRead, BufReader};
    use std::process::{self, Command, Stdio};
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use nix::sched::{CloneFlags, setns};
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use ringtap::cli::capture::Mode;
    use ringtap::doctor::{self, Question, Status};
    use ringtap::nic::link::LinkWatch;
    use ringtap::nic::offload::{self, Offload, OffloadError, Offloads};
    use ringtap::nic::table::list_table;
    use ringtap::nic::{LinkState, Nic, NicError, Reason, XdpMode};

    /// Tells the test that runs again in a child which namespace to work in.
    const CHILD: &str = "RINGTAP_TEST_NIC_CHILD";

    /// A network namespace with a veth pair `v0`, `v1`, both up; removed when dropped.
    struct Namespace(String);

    impl Namespace {
        fn new() -> Self {
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let name = format!("rt-nic-{}-{number}", process::id());
            run(&format!("ip netns add {name}"));
            let namespace = Self(name);
            let queues = "numrxqueues 4 numtxqueues 4";
            namespace.ip(&format!(
                "link add v0 {queues} type veth peer name v1 {queues}"
            ));
            namespace.ip("link set v0 addrgenmode none up");
            namespace.ip("link set v1 addrgenmode none up");
            namespace
        }

        fn ip(&self, rest: &str) {
            run(&format!("ip -n {} {rest}", self.0));
        }

        fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
            inside(&self.0, act)
        }

        fn nic(&self, name: &str) -> Nic {
            self.inside(|| Nic::find(name).unwrap())
        }

        fn is_on(&self, offload: Offload) -> bool {
            self.inside(|| {
                let nic = Nic::find("v0").unwrap();
                nic.active_offloads().unwrap().contains(&offload)
            })
        }
    }

    impl Drop for Namespace {
        fn drop(&mut self) {
            run(&format!("ip netns del {}", self.0));
        }
    }

    fn run(command: &str) {
        let mut words = command.split(' ');
        let status = Command::new(words.next().unwrap()).args(words).status();
        assert!(status.unwrap().success(), "{command}");
    }

    /// Runs `act` on a thread of its own that has entered the namespace.
    fn inside<T: Send>(namespace: &str, act: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{namespace}")).unwrap();
        thread::scope(|scope| {
            let entered = scope.spawn(move || {
                setns(file, CloneFlags::CLONE_NEWNET).unwrap();
                act()
            });
            entered.join().unwrap()
        })
    }

    #[test]
    fn an_interface_with_an_address_is_not_taken_from_the_host() {
        let namespace = Namespace::new();
        assert_eq!(namespace.nic("v0").capture_only(), Ok(()));
        namespace.ip("addr add 169.254.3.4/16 dev v0");
        namespace.ip("addr add fe80::5/64 dev v0");
        assert_eq!(namespace.nic("v0").capture_only(), Ok(()));
        namespace.ip("addr add 10.0.0.5/24 dev v0 label v0:1");
        let nic = namespace.nic("v0");
        let reason = nic.capture_only().unwrap_err();
        assert_eq!(reason.to_string(), "v0 has the address 10.0.0.5");
        assert_eq!(nic.all_addresses().len(), 3);
        namespace.ip("addr del 10.0.0.5/24 dev v0");
        namespace.ip("addr add 2001:db8::7/64 dev v0");
        let reason = namespace.nic("v0").capture_only().unwrap_err();
        assert_eq!(reason.to_string(), "v0 has the address 2001:db8::7");
        assert_eq!(namespace.nic("v1").capture_only(), Ok(()));
    }

    #[test]
    fn a_port_of_a_bridge_and_what_lies_under_a_macvlan_are_left_to_the_host() {
        let namespace = Namespace::new();
        namespace.ip("link add br0 type bridge");
        namespace.ip("link set v0 master br0");
        let reason = namespace.nic("v0").capture_only().unwrap_err();
        assert_eq!(reason.to_string(), "v0 belongs to the bridge br0");
        namespace.ip("link set v0 nomaster");
        assert_eq!(namespace.nic("v0").capture_only(), Ok(()));
        namespace.ip("link add link v0 name mac0 type macvlan");
        let reason = namespace.nic("v0").capture_only().unwrap_err();
        assert_eq!(reason.to_string(), "v0 carries the macvlan device mac0");
        assert!(matches!(reason, Reason::Upper { .. }));
    }

    #[test]
    fn an_interface_is_found_by_either_name_in_a_namespace_that_sysfs_does_not_show() {
        let namespace = Namespace::new();
        namespace.ip("link property add dev v0 altname an-alternative-name-of-v0");
        namespace.ip("link set v0 mtu 9000");
        let nic = namespace.nic("an-alternative-name-of-v0");
        assert_eq!(nic.name(), "v0");
        assert_eq!(nic.index(), namespace.nic("v0").index());
        assert_eq!(nic.mtu(), 9_000);
        namespace.inside(|| {
            assert_eq!(nic.queues(), 4);
            assert_eq!(nic.driver(), Some("veth"));
            assert!(!nic.xdp_features().unwrap().zero_copy);
            let unknown = Nic::find("v00").unwrap_err();
            assert!(
                matches!(&unknown, NicError::Unknown { nearest: Some(name), .. } if name == "v0")
            );
            let table = list_table().unwrap();
            assert!(table.contains("auto: xdp"), "{table}");
            assert!(
                table.lines().all(|line| line.chars().count() <= 80),
                "{table}"
            );
        });
    }

    #[test]
    fn offloads_are_switched_off_noted_and_restored() {
        let namespace = Namespace::new();
        assert!(namespace.is_on(Offload::RxVlan));
        namespace.inside(|| {
            let nic = Nic::find("v0").unwrap();
            let mut offloads = Offloads::of(&nic).unwrap();
            assert!(offloads.switch_off(offload::for_xdp()).is_empty());
            assert_eq!(
                offloads.switched_off(),
                [Offload::RxVlan, Offload::RxServiceVlan]
            );
            assert!(!nic.active_offloads().unwrap().contains(&Offload::RxVlan));
            assert!(offloads.switch_off(offload::for_xdp()).is_empty());
            let mut second = Offloads::of(&nic).unwrap();
            assert!(second.switch_off(&Offload::ALL).is_empty());
            assert!(second.switched_off().is_empty());
            drop(second);
            assert!(!nic.active_offloads().unwrap().contains(&Offload::RxVlan));
            offloads.restore().unwrap();
            assert!(nic.active_offloads().unwrap().contains(&Offload::RxVlan));
            offloads.switch_off(&[Offload::RxVlan]);
        });
        assert!(namespace.is_on(Offload::RxVlan), "restored on drop");
        assert!(!namespace.is_on(Offload::Gro), "what was off stays off");
    }

    #[test]
    fn a_restored_interface_may_have_been_renamed_or_be_gone() {
        let namespace = Namespace::new();
        namespace.inside(|| {
            let mut offloads = Offloads::of(&Nic::find("v0").unwrap()).unwrap();
            offloads.switch_off(offload::for_xdp());
            namespace.ip("link set v0 down");
            namespace.ip("link set v0 name w0");
            offloads.restore().unwrap();
            let nic = Nic::find("w0").unwrap();
            assert!(nic.active_offloads().unwrap().contains(&Offload::RxVlan));
            let mut offloads = Offloads::of(&nic).unwrap();
            offloads.switch_off(offload::for_xdp());
            namespace.ip("link del w0");
            offloads.restore().unwrap();
        });
    }

    #[test]
    fn what_a_killed_sensor_left_off_is_mended() {
        if let Ok(name) = std::env::var(CHILD) {
            inside(&name, || {
                let mut offloads = Offloads::of(&Nic::find("v0").unwrap()).unwrap();
                offloads.switch_off(offload::for_xdp());
                println!("switched off");
                thread::park();
            });
            return;
        }
        let namespace = Namespace::new();
        kill_a_child(&namespace);
        assert!(!namespace.is_on(Offload::RxVlan));
        let inode = std::os::unix::fs::MetadataExt::ino(
            &fs::metadata(format!("/run/netns/{}", namespace.0)).unwrap(),
        );
        let left = || {
            offload::left_over()
                .into_iter()
                .find(|note| note.netns == inode)
        };
        let note = left().unwrap();
        assert!(matches!(
            offload::mend(&note),
            Err(OffloadError::Elsewhere { .. })
        ));
        namespace.inside(|| {
            let question = Question::default();
            let report = doctor::examine(&question);
            assert_eq!(
                report.check("system", "left over").unwrap().status,
                Status::Warn
            );
            assert!(doctor::restore(&["v0".to_owned()]).would_start());
        });
        assert_eq!(left(), None);
        assert!(namespace.is_on(Offload::RxVlan));

        kill_a_child(&namespace);
        namespace.inside(|| drop(Offloads::of(&Nic::find("v0").unwrap()).unwrap()));
        assert!(namespace.is_on(Offload::RxVlan), "the next sensor mends it");
        assert_eq!(left(), None);
    }

    /// Lets this test switch offloads off in a process of its own, and kills that process.
    fn kill_a_child(namespace: &Namespace) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "root::what_a_killed_sensor_left_off_is_mended",
                "--nocapture",
            ])
            .env(CHILD, &namespace.0)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("switched off")));
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        kill(pid, Signal::SIGKILL).unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn the_watch_tells_no_carrier_down_up_and_gone() {
        let namespace = Namespace::new();
        namespace.inside(|| {
            let nic = Nic::find("v0").unwrap();
            let mut watch = LinkWatch::new([nic.index()]).unwrap();
            assert_eq!(watch.state(nic.index()), Some(LinkState::Up));
            assert_eq!(watch.changes().unwrap(), []);
            let mut after = |command: &str| {
                namespace.ip(command);
                let changes = watch.changes().unwrap();
                assert!(changes.iter().all(|change| change.index == nic.index()));
                changes.last().map(|change| change.state)
            };
            assert_eq!(after("link set v1 down"), Some(LinkState::NoCarrier));
            assert_eq!(after("link set v1 up"), Some(LinkState::Up));
            assert_eq!(after("link set v0 down"), Some(LinkState::Down));
            assert_eq!(after("link set v0 up"), Some(LinkState::Up));
            assert_eq!(after("link add br0 type bridge"), None);
            assert_eq!(after("link set v0 master br0"), None);
            assert_eq!(after("link set v0 nomaster"), None);
            assert_eq!(after("link del v0"), Some(LinkState::Gone));
            assert_eq!(watch.state(nic.index()), Some(LinkState::Gone));
        });
    }

    #[test]
    fn a_foreign_xdp_program_is_named() {
        let namespace = Namespace::new();
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("foreign.c");
        let object = folder.path().join("foreign.o");
        let section = "__attribute__((section(\"xdp\"), used))";
        fs::write(
            &source,
            format!("{section} int somebody_elses(void *p) {{ return 2; }}"),
        )
        .unwrap();
        let (source, object) = (source.display(), object.display());
        run(&format!("clang -O2 -g -target bpf -c {source} -o {object}"));
        namespace.ip(&format!("link set dev v0 xdpdrv obj {object} sec xdp"));
        let nic = namespace.nic("v0");
        let programs = nic.programs();
        assert_eq!(programs.len(), 1);
        assert_eq!(programs[0].mode, XdpMode::Native);
        assert_eq!(programs[0].name.as_deref(), Some("somebody_elses"));
        assert!(matches!(nic.free_for_xdp(), Err(Reason::Taken { .. })));
        assert_eq!(nic.capture_only(), Ok(()));
        namespace.inside(|| {
            let question = |mode| Question {
                interfaces: vec!["v0".to_owned()],
                mode,
                kafka: None,
            };
            let report = doctor::examine(&question(Mode::Xdp));
            assert_eq!(
                report.check("v0", "xdp programs").unwrap().status,
                Status::Fail
            );
            assert!(!report.would_start());
            assert!(doctor::examine(&question(Mode::Auto)).would_start());
        });
    }

    #[test]
    fn the_doctor_names_what_is_wrong_with_an_interface() {
        let namespace = Namespace::new();
        namespace.ip("link set v0 mtu 9000 down");
        namespace.inside(|| {
            let question = |mode| Question {
                interfaces: vec!["v0".to_owned(), "v9".to_owned()],
                mode,
                kafka: None,
            };
            let report = doctor::examine(&question(Mode::Pcap));
            let state = report.check("v0", "state").unwrap();
            assert_eq!(state.status, Status::Fail);
            assert_eq!(state.mend.as_deref(), Some("ip link set v0 up"));
            let report = doctor::examine(&question(Mode::Xdp));
            assert_eq!(report.check("v0", "state").unwrap().status, Status::Warn);
            assert_eq!(
                report.check("v9", "interface").unwrap().status,
                Status::Fail
            );
            assert!(
                report
                    .check("v0", "mtu")
                    .unwrap()
                    .finding
                    .starts_with("9000")
            );
            let table = report.table(false);
            assert!(
                table.lines().all(|line| line.chars().count() <= 80),
                "{table}"
            );
        });
    }
}
