//! `leasehold volume discard`: of two histories this replica's is given up. What only it may have is copied aside first.

use crate::buffer::Pool;
use crate::create::Which;
use crate::drive::area::{AreaError, Opened};
use crate::drive::hex;
use crate::ids::{Digest, Span};
use crate::metadata::Store;
use crate::operate::verbs::{VerbError, confirm};
use sha2::{Digest as _, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Give up what this replica has completed and another one, which counts, never had
///
/// For a replica that the node which leads calls diverged, while its own node's daemon is stopped. Every chunk that the others may not have
/// is copied aside first; then the daemon is started, and it is resynced.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub which: Which,
    /// A new file for what is given up: the first volume's chunks at their places, nothing where there are holes; those of volume 1 in
    /// FILE.1, and so on; and FILE.chunks, with a line for each: volume, offset, bytes, SHA-256
    #[arg(long, value_name = "FILE")]
    pub aside: PathBuf,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

/// Why nothing was given up.
#[derive(Debug, thiserror::Error)]
pub enum DiscardError {
    #[error(transparent)]
    Area(#[from] AreaError),
    #[error(
        "this replica has completed nothing as leader that it would have to give up: whoever leads resyncs it by itself; start its node's daemon, \
         and look at `leasehold volume status` where the volumes are led"
    )]
    Nothing,
    #[error("{}: {what}: {source}; nothing was given up", path.display())]
    Aside { path: PathBuf, what: &'static str, source: io::Error },
    #[error("volume {} cannot be read at {}: {source}; nothing was given up", span.volume.0, span.at)]
    Read { span: Span, source: io::Error },
    #[error(transparent)]
    Confirm(#[from] VerbError),
}

/// Copies aside, asks, and gives up.
///
/// # Errors
/// [`DiscardError`]: the replica is as it was.
pub fn run(args: &Args) -> Result<(), DiscardError> {
    let mut opened = args.which.files().open(None, &Pool::default())?;
    let superblock = opened.store.superblock();
    let Some(completed) = superblock.completed else { return Err(DiscardError::Nothing) };
    let spans = only_here(&opened.store);
    let bytes: u64 = spans.iter().map(|span| span.len).sum();
    println!(
        "Replica {} has completed writes as leader, up to {}.{}. What of them no other replica has is given up, and overwritten by what \
         the node that leads has: it is somewhere in {} chunks of {} bytes in all, which are copied to {} first. If this is the right side, do \
         not go on: fail over to it by force instead.",
        superblock.incarnation,
        completed.epoch,
        completed.turn,
        spans.len(),
        bytes,
        args.aside.display()
    );
    confirm(args.yes)?;
    copy_aside(&opened, &spans, &args.aside)?;
    // Only now: what is aside is durable.
    opened.give_up()?;
    println!("given up: start the node's daemon, and it is resynced; {} holds what was there", args.aside.display());
    Ok(())
}

/// Every chunk that some other replica may not have: what is marked against any of them, and what was hot as its process ended. All
/// chunks, where no other one is known.
fn only_here(store: &Store) -> Vec<Span> {
    let geometry = store.geometry();
    let marked = |extent| {
        let known = store.slots().map(|slot| store.marked(slot, extent)).reduce(|all, word| all | word);
        known.unwrap_or_else(|| geometry.full(extent))
    };
    let chunks = |extent| {
        let word: u64 = marked(extent);
        (0..64).filter(move |bit| word & 1 << bit != 0).map(move |bit| geometry.chunk(extent, bit))
    };
    (0..geometry.extents()).flat_map(chunks).collect()
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn copy_aside(opened: &Opened, spans: &[Span], aside: &Path) -> Result<(), DiscardError> {
    let failed = |path: &Path, what| {
        let path = path.to_owned();
        move |source| DiscardError::Aside { path, what, source }
    };
    let make = |path: PathBuf| -> Result<(PathBuf, File), DiscardError> {
        let file =
            OpenOptions::new().write(true).create_new(true).open(&path).map_err(failed(&path, "cannot be made"))?;
        Ok((path, file))
    };
    let mut copies = Vec::new();
    for (number, bytes) in opened.store.geometry().volumes().iter().enumerate() {
        let (path, file) = make(if number == 0 { aside.to_owned() } else { beside(aside, &format!(".{number}")) })?;
        file.set_len(*bytes).map_err(failed(&path, "cannot be enlarged"))?;
        copies.push((path, file));
    }
    let (list_path, mut list) = make(beside(aside, ".chunks"))?;
    let pool = Pool::default();
    for span in spans {
        let number = span.volume.0 as usize;
        let mut chunk = pool.take(usize::try_from(span.len).expect("a chunk"));
        let read = opened.backings[number].disk().read(span.at, chunk.as_mut());
        read.map_err(|refusal| DiscardError::Read { span: *span, source: io::Error::other(refusal.to_string()) })?;
        let (path, file) = &copies[number];
        file.write_all_at(chunk.as_ref(), span.at).map_err(failed(path, "cannot be written"))?;
        let digest = Digest(Sha256::digest(chunk.as_ref()).into());
        writeln!(list, "{number} {} {} {}", span.at, span.len, hex(digest))
            .map_err(failed(&list_path, "cannot be written"))?;
    }
    for (path, file) in copies.iter().chain([&(list_path, list)]) {
        file.sync_all().map_err(failed(path, "cannot be made durable"))?;
    }
    let folder = aside.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed(folder, "cannot be made durable"))
}
