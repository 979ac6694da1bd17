//! A full disk: a small one, mounted for the test alone, which needs root.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::*;

/// 256 KiB of tmpfs that only this thread sees.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(at: &Path) -> Self {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, private, none).unwrap();
        let tmpfs = Some("tmpfs");
        mount(tmpfs, at, tmpfs, MsFlags::empty(), Some("size=256k")).unwrap();
        Self(at.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

fn fill_and_free(name: &str, format: Format) {
    let folder = tempdir().unwrap();
    let _disk = SmallDisk::new(folder.path());
    let filler = folder.path().join("filler");
    fs::write(&filler, vec![0; 100 * 1_024]).unwrap();
    let path = folder.path().join(name);
    let mut config = config(&path, 1);
    config.format = format;
    let mut run = Run::new(config);

    let mut time = START;
    let mut next = || {
        time += 60_000;
        batch(0, (time..time + 60_000).step_by(1_000), 984)
    };
    while run.sum().not_persisted[Failed::Disk as usize] < 100 {
        run.send(next()).unwrap();
    }
    let full = run.sum();
    assert!(full.delivered > 100, "what fitted is kept: {full:?}");
    assert_eq!(times(&path).len() as u64, full.delivered);

    fs::remove_file(&filler).unwrap();
    while run.finished.last().unwrap().outcome != Outcome::delivered(60) {
        run.send(next()).unwrap();
        thread::sleep(Duration::from_millis(50));
    }
    run.finish().unwrap();
    let sum = run.sum();
    let times = times(&path);
    assert_eq!(times.len() as u64, sum.delivered);
    assert!(times.is_sorted());
    let shown = output("capinfos", &["-c", "-M"], &path);
    assert!(
        shown.contains(&format!("Number of packets:   {}", sum.delivered)),
        "{shown}"
    );
}

#[test]
fn a_full_disk_costs_packets_by_count_and_pcap_goes_on_when_there_is_room() {
    fill_and_free("x.pcap", PCAP);
}

#[test]
fn a_full_disk_costs_packets_by_count_and_pcapng_goes_on_when_there_is_room() {
    fill_and_free("x.pcapng", Format::Pcapng);
}

#[test]
fn a_disk_that_fills_up_between_two_files_leaves_no_empty_one() {
    let folder = tempdir().unwrap();
    let _disk = SmallDisk::new(folder.path());
    let rotation = Rotation {
        size: NonZeroU64::new(100_000),
        ..Rotation::default()
    };
    let mut run = rotated(folder.path(), "f", rotation, 8);
    run.finish().unwrap();
    let sum = run.sum();
    assert!(sum.not_persisted[Failed::Disk as usize] > 0);
    let kept: usize = names(folder.path())
        .iter()
        .map(|name| times(&folder.path().join(name)).len())
        .sum();
    assert_eq!(kept as u64, sum.delivered);
}
