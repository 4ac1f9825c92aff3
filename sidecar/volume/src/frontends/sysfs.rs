//! What the kernel tells of the devices, and the name under which one is found.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// One request at most: large enough that throughput is the disk's and the link's, small enough that the server's memory holds
/// many.
const REQUEST_MAX_KIB: u64 = 4096;
/// Where devices have names of their own.
const NAMES: &str = "/dev/leasehold";

/// Numbers of the nbd devices that have this identifier, connected or not yet closed by all.
pub(super) fn of(identifier: &str) -> Vec<u32> {
    let Ok(devices) = fs::read_dir("/sys/block") else { return Vec::new() };
    let number = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.strip_prefix("nbd")?.parse().ok();
    let mut found: Vec<u32> = devices.filter_map(number).collect();
    found.retain(|index| read(&format!("nbd{index}"), "backend").is_some_and(|backend| backend == identifier));
    found.sort_unstable();
    found
}

pub(super) fn size_bytes(disk: &str) -> Option<u64> {
    read(disk, "size")?.parse::<u64>().ok()?.checked_mul(512)
}

/// Whether it is mounted, swapped to, or part of another device, as far as that can be seen without a request to it. Mounts are
/// those of this process's namespace and of the first process's.
pub(super) fn is_in_use(disk: &str) -> bool {
    let folder = folder(disk);
    let mut parts = vec![folder.clone()];
    parts.extend(
        fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.starts_with(&format!("{disk}p")).then(|| entry.path())),
    );
    let mounts: String =
        ["self", "1"].iter().filter_map(|who| fs::read_to_string(format!("/proc/{who}/mountinfo")).ok()).collect();
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    parts.iter().any(|part| {
        let number = fs::read_to_string(part.join("dev")).unwrap_or_default();
        let node = part.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_mounted = mounts.lines().any(|line| line.split(' ').nth(2) == Some(number.trim()));
        let is_held = fs::read_dir(part.join("holders")).is_ok_and(|mut holders| holders.next().is_some());
        let is_swap = swaps.lines().any(|line| line.split_whitespace().next() == Some(&format!("/dev/{node}")));
        is_mounted || is_held || is_swap
    })
}

/// The kernel's own default makes small requests of large ones.
pub(super) fn raise_request_size(disk: &str) {
    let queue = folder(disk).join("queue");
    let raised = fs::read_to_string(queue.join("max_hw_sectors_kb"))
        .map(|max| max.trim().parse().unwrap_or(REQUEST_MAX_KIB).min(REQUEST_MAX_KIB))
        .and_then(|kib| fs::write(queue.join("max_sectors_kb"), kib.to_string()));
    if let Err(error) = raised {
        tracing::debug!(disk, %error, "large requests are cut into small ones as the kernel does by default");
    }
}

pub(super) fn node(disk: &str) -> PathBuf {
    PathBuf::from(format!("/dev/{disk}"))
}

pub(super) fn link(name: &str) -> PathBuf {
    Path::new(NAMES).join(name)
}

/// Makes the name lead to this device, at once: nobody sees it missing or half made.
pub(super) fn name(name: &str, disk: &str) -> io::Result<()> {
    fs::create_dir_all(NAMES)?;
    let fresh = link(&format!(".{name}.new"));
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::os::unix::fs::symlink(node(disk), &fresh)?;
    fs::rename(&fresh, link(name))
}

pub(super) fn unname(name: &str) {
    // Gone already: fine.
    let _ = fs::remove_file(link(name));
}

fn folder(disk: &str) -> PathBuf {
    PathBuf::from(format!("/sys/block/{disk}"))
}

fn read(disk: &str, attribute: &str) -> Option<String> {
    fs::read_to_string(folder(disk).join(attribute)).ok().map(|text| text.trim().to_owned())
}
