//! `leasehold volume create` and `dump-metadata`: a replica is made, and looked at.

use crate::buffer::Pool;
use crate::drive::area::{AreaError, Files, Shape};
use crate::metadata::{DataState, Recovery, Store, unclaimed};
use lease::ids::{Incarnation, Lineage};
use std::fmt::Write as _;
use std::path::PathBuf;

/// Which replica.
#[derive(Clone, Debug, clap::Args)]
pub struct Which {
    /// The file or block device that holds the data; again for each further volume of the group, in order
    #[arg(long, value_name = "FILE", required = true)]
    pub backing: Vec<PathBuf>,
    /// The file of its metadata; without it, the end of the first backing
    #[arg(long, value_name = "FILE")]
    pub metadata: Option<PathBuf>,
    /// Go through the page cache, where the file system has no `O_DIRECT`
    #[arg(long)]
    pub buffered: bool,
}

impl Which {
    pub(crate) fn files(&self) -> Files {
        Files { backings: self.backing.clone(), metadata: self.metadata.clone(), undo: None, buffered: self.buffered }
    }
}

/// Make a replica of files or block devices, keeping what is on them
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub which: Which,
    /// The lineage of the cluster whose data it is, if it is not the first one that it meets: replicas of different ones
    /// refuse each other
    #[arg(long, value_name = "NAME", value_parser = |text: &str| Lineage::new(text))]
    pub lineage: Option<Lineage>,
    /// Bytes that are compared and copied as one, as a power of two: 12 (4 KiB) to 20 (1 MiB)
    #[arg(long, value_name = "LOG2", default_value_t = Shape::default().chunk_shift)]
    pub chunk: u8,
    /// How many extents of 64 chunks may be being written at once, and are compared after a crash
    #[arg(long, value_name = "COUNT", default_value_t = Shape::default().slots)]
    pub activity: u16,
}

/// A name that no replica has had.
pub(crate) fn new_name() -> Incarnation {
    let mut random = [0; 8];
    getrandom::fill(&mut random).expect("the kernel's random source");
    let name = random.iter().fold(String::from("r-"), |mut name, byte| {
        let _ = write!(name, "{byte:02x}");
        name
    });
    Incarnation::new(name).expect("a valid name")
}

/// Makes a replica, and tells what it is.
///
/// # Errors
/// [`AreaError`]: nothing was made, nothing was changed.
pub fn run(args: &Args) -> Result<(), AreaError> {
    let incarnation = new_name();
    let shape = Shape { chunk_shift: args.chunk, slots: args.activity };
    let lineage = args.lineage.clone().unwrap_or_else(unclaimed);
    let geometry = args.which.files().create(lineage, incarnation.clone(), &shape)?;
    println!("replica {incarnation}: its data is what is there now");
    for (path, bytes) in args.which.backing.iter().zip(geometry.volumes()) {
        println!("  {}: a volume of {bytes} bytes", path.display());
    }
    match &args.which.metadata {
        Some(path) => println!("  {}: {} bytes of metadata; it must not be lost", path.display(), geometry.area()),
        None => println!("  {} bytes of metadata behind the first volume", geometry.area()),
    }
    Ok(())
}

/// Tells what a replica that is not in use remembers.
///
/// # Errors
/// [`AreaError`], also where the replica is in use.
pub fn dump(which: &Which) -> Result<(), AreaError> {
    let opened = which.files().open(None, &Pool::default())?;
    print!("{}", text(&opened.store, &opened.recovery));
    Ok(())
}

fn text(store: &Store, recovery: &Recovery) -> String {
    let superblock = store.superblock();
    let geometry = store.geometry();
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<12}{value}");
    };
    line("replica", superblock.incarnation.to_string());
    line("lineage", superblock.lineage.to_string());
    line(
        "image",
        match superblock.state {
            DataState::Whole => "whole".into(),
            DataState::Inconsistent if superblock.undo.is_some() => {
                "in the middle of a resync: never to be promoted; what it was before is in the undo log (leasehold volume rollback)".into()
            }
            DataState::Inconsistent => "in the middle of a resync: never to be promoted".into(),
        },
    );
    line("promised", format!("epoch {}: frames of older ones are refused", superblock.promised));
    for (number, bytes) in geometry.volumes().iter().enumerate() {
        line("volume", format!("{number}: {bytes} bytes in chunks of {}", 1_u64 << geometry.chunk_shift()));
    }
    let generations: Vec<String> =
        superblock.generations.iter().map(|one| format!("{}.{}", one.epoch, one.turn)).collect();
    line("history", if generations.is_empty() { "none".into() } else { generations.join(" ") });
    line(
        "completed",
        superblock
            .completed
            .map_or("nothing as leader".into(), |one| format!("up to {}.{} as leader", one.epoch, one.turn)),
    );
    for slot in store.slots() {
        let name = superblock.peers[slot].as_ref().map_or(String::new(), |peer| peer.incarnation.to_string());
        line("peer", format!("{name}: {} chunks may differ", store.marks(slot)));
    }
    line("log", format!("{} of {} extents may have been being written", recovery.hot, geometry.slots()));
    if recovery.log_lost {
        line("log", "it could not be read: everything counts as different".into());
    }
    if recovery.bitmap_pages_lost > 0 {
        line(
            "bitmaps",
            format!("{} pages could not be read: all in them counts as different", recovery.bitmap_pages_lost),
        );
    }
    text
}
