//! What is mounted where, as the kernel says (proc_pid_mountinfo(5)).

use std::io;
use std::path::{Path, PathBuf};

/// A line of /proc/self/mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The part of the file system that is seen.
    pub(super) root: PathBuf,
    pub(super) target: PathBuf,
    pub(super) fstype: String,
    /// A device's path, where it is on one.
    pub(super) source: String,
    /// The file system's own options: `ro` where the kernel lets nobody write to it any more.
    pub(super) options: String,
}

/// `36 25 0:29 ROOT TARGET options [optional...] - FSTYPE SOURCE OPTIONS`, in the order in which they were mounted.
pub(super) fn parse(text: &str) -> impl Iterator<Item = Entry> {
    text.lines().filter_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ').skip(3);
        let mut back = back.split(' ');
        Some(Entry {
            root: unescape(front.next()?).into(),
            target: unescape(front.next()?).into(),
            fstype: back.next()?.to_owned(),
            source: unescape(back.next()?),
            options: back.next()?.to_owned(),
        })
    })
}

/// What is seen at `target`: the topmost of what is mounted there.
///
/// # Errors
/// Where /proc cannot be read.
pub(super) fn at(target: &Path) -> io::Result<Option<Entry>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(parse(&text).filter(|mount| mount.target == target).last())
}

/// Undoes the kernel's octal escapes of blank, tab, line feed and backslash.
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_with_its_blanks_and_without_its_optional_fields() {
        let text = "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 propagate_from:2 - ext4 /dev/loop3 rw,errors=continue\n\
                    37 36 0:5 / /x ro - tmpfs none ro\n";
        let found: Vec<Entry> = parse(text).collect();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].root.as_path(), found[0].target.as_path()), (Path::new("/mnt1"), Path::new("/mnt 2")));
        assert_eq!((found[0].source.as_str(), found[0].options.as_str()), ("/dev/loop3", "rw,errors=continue"));
        assert_eq!((found[1].fstype.as_str(), found[1].options.as_str()), ("tmpfs", "ro"));
    }
}
