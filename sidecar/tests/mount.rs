//! The `mount` resource with a real file system on a loop device. Needs root.

mod stage;

use lease::time::Millis;
use sidecar::identity::random_hex;
use sidecar::node::event::Event;
use sidecar::resources::mount::Mount;
use sidecar::resources::{Kind, Order, Resource};
use stage::{Stage, WithCommands as _, resource, stage};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A blank disk, and where it is mounted.
struct Disk {
    folder: PathBuf,
    device: PathBuf,
}

fn run(words: &[&str]) -> String {
    let done = Command::new(words[0]).args(&words[1..]).output().expect("run");
    assert!(done.status.success(), "{words:?}: {done:?}");
    String::from_utf8(done.stdout).expect("text").trim().to_owned()
}

impl Disk {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("leasehold-mount-{}", random_hex(6)));
        std::fs::create_dir_all(&folder).expect("made");
        let image = folder.join("image");
        std::fs::File::create(&image).and_then(|file| file.set_len(16 << 20)).expect("made");
        let device = run(&["losetup", "--find", "--show", image.to_str().expect("text")]).into();
        Self { folder, device }
    }

    fn target(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn resource(&self) -> Resource {
        let mount = Mount {
            source: self.device.clone(),
            target: self.target(),
            fstype: "ext4".into(),
            options: vec!["noatime".into()],
            make_filesystem: true,
        };
        Resource { kind: Kind::Mount(mount), start_limit: Millis(10_000), ..resource("data", "true") }
    }

    fn is_mounted(&self) -> bool {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("read");
        mounts.contains(&format!(" {} ", self.target().display()))
    }

    fn stage(&self, more: impl FnOnce(&Path) -> Vec<Resource>) -> Stage {
        let mut resources = vec![self.resource()];
        resources.extend(more(&self.target()));
        stage(|_| resources)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        while self.is_mounted() && Command::new("umount").arg("-l").arg(self.target()).status().is_ok() {}
        let _ = Command::new("losetup").arg("-d").arg(&self.device).status();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

async fn down(stage: &mut Stage, order: Order) {
    stage.order(order).await;
    assert_eq!(stage.event().await, Event::WorkloadDown);
}

#[tokio::test]
async fn a_file_system_is_made_once_and_there_while_the_node_is_active() {
    let disk = Disk::new();
    let mut stage = disk.stage(|at| vec![resource("writes", &format!("echo word >> {}/log", at.display()))]);
    for turn in 1..=2 {
        stage.up().await;
        assert!(disk.is_mounted());
        let log = std::fs::read_to_string(disk.target().join("log")).expect("written");
        assert_eq!(log, "word\n".repeat(turn), "made at the first start alone");
        down(&mut stage, Order::Stop).await;
        assert!(!disk.is_mounted());
    }
}

#[tokio::test]
async fn a_device_that_holds_something_else_is_left_alone() {
    let disk = Disk::new();
    std::fs::write(disk.folder.join("image"), vec![7; 16 << 20]).expect("written");
    let mut stage = disk.stage(|_| vec![]);
    stage.start().await;
    let Event::ResourceFailed { resource, reason, .. } = stage.event().await else { panic!("it failed") };
    assert_eq!(resource, "data");
    assert!(reason.contains("mount -t ext4"), "{reason}");
    assert!(std::fs::read(disk.folder.join("image")).expect("read").iter().all(|byte| *byte == 7));
}

#[tokio::test]
async fn a_device_that_does_not_come_fails_the_start_at_its_limit() {
    let disk = Disk::new();
    let mut stage = stage(|_| {
        let mut late = disk.resource();
        late.start_limit = Millis(300);
        let Kind::Mount(mount) = &mut late.kind else { unreachable!("a mount") };
        mount.source = "/dev/leasehold-none".into();
        vec![late]
    });
    stage.start().await;
    let Event::ResourceFailed { reason, .. } = stage.event().await else { panic!("it failed") };
    assert_eq!(reason, "/dev/leasehold-none cannot be mounted within 300 ms");
}

#[tokio::test]
async fn a_kill_takes_it_away_from_whoever_uses_it() {
    let disk = Disk::new();
    let mut stage = disk.stage(|at| {
        let uses = format!("cd {} && exec sleep 1000", at.display());
        vec![resource("uses", &format!("sh -c '{uses}' & sleep 0.1")).stop("sleep 1000")]
    });
    stage.up().await;
    down(&mut stage, Order::Kill).await;
    assert!(!disk.is_mounted());
}

#[tokio::test]
async fn somebody_outside_who_uses_it_stops_no_stop_and_what_he_wrote_is_there() {
    let disk = Disk::new();
    let mut stage = disk.stage(|_| vec![]);
    stage.up().await;
    std::fs::write(disk.target().join("words"), "written").expect("written");
    let mut shell = Command::new("sleep").arg("1000").current_dir(disk.target()).spawn().expect("started");
    down(&mut stage, Order::Stop).await;
    assert!(!disk.is_mounted());
    // As another node sees it, while that shell still stands where it stood.
    let image = disk.folder.join("image");
    let said = run(&["debugfs", "-R", "cat words", image.to_str().expect("text")]);
    shell.kill().and_then(|()| shell.wait()).expect("ended");
    assert_eq!(said, "written");
}

#[tokio::test]
async fn what_an_earlier_daemon_left_mounted_is_gone_before_anything_starts() {
    let disk = Disk::new();
    {
        let mut stage = disk.stage(|_| vec![]);
        stage.up().await;
    }
    assert!(disk.is_mounted(), "that daemon was killed");
    let mut stage = disk.stage(|at| {
        vec![resource("sees", &format!("grep -c ' {} ' /proc/self/mountinfo > {}/times", at.display(), at.display()))]
    });
    stage.up().await;
    assert_eq!(std::fs::read_to_string(disk.target().join("times")).expect("written"), "1\n");
    down(&mut stage, Order::Stop).await;
}

#[tokio::test]
async fn a_file_system_that_became_read_only_or_went_away_fails_its_check() {
    let disk = Disk::new();
    let mut stage = disk.stage(|_| vec![]);
    let target = disk.target();
    stage.up().await;
    run(&["mount", "-o", "remount,ro", target.to_str().expect("text")]);
    let Event::ResourceFailed { reason, .. } = stage.event().await else { panic!("it failed") };
    assert!(reason.contains("read-only after an error"), "{reason}");
    run(&["umount", target.to_str().expect("text")]);
    tokio::time::sleep(Millis(300).into()).await;
    let problem = stage.health.borrow()[0].problem.clone();
    assert!(problem.is_some_and(|problem| problem.contains("nothing is mounted")));
}
