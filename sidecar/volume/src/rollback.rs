//! `leasehold volume rollback`: where a resync was interrupted for good, the image that was there before it.

use crate::buffer::Pool;
use crate::create::{Which, new_name};
use crate::drive::area::AreaError;
use crate::drive::undo::{Entry, UndoError, UndoFile};
use crate::metadata::DataState;
use crate::operate::verbs::{VerbError, confirm};
use std::path::PathBuf;

/// Put back what an interrupted resync has overwritten: the image of before it
///
/// For a replica that was being resynced when the node that it was resynced from was lost for good. Stop its node first.
/// Afterwards its image is whole, and as old as the resync: a failover to it must be forced, with loss.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub which: Which,
    /// Its undo log
    #[arg(long, value_name = "FILE")]
    pub undo: PathBuf,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

/// Why nothing was rolled back. If it had begun, it can be begun again.
#[derive(Debug, thiserror::Error)]
pub enum RollbackError {
    #[error(transparent)]
    Area(#[from] AreaError),
    #[error(transparent)]
    Undo(#[from] UndoError),
    #[error("the image is whole: there is nothing to put back")]
    Whole,
    #[error(
        "nothing is known of the image before the resync: none was kept, or the undo log was full or failed; this replica can only be resynced"
    )]
    NotKept,
    #[error("{path} holds a chunk that cannot be read any more: what it held was confirmed, so the file has rotted")]
    Rotten { path: PathBuf },
    #[error("the data cannot be written: {0}; the image is still in the middle of a resync")]
    Write(crate::request::Refusal),
    #[error(transparent)]
    Verb(#[from] VerbError),
}

/// Puts back what is kept, if the user agrees.
///
/// # Errors
/// [`RollbackError`].
pub fn run(args: &Args) -> Result<(), RollbackError> {
    let pool = Pool::default();
    let mut opened = args.which.files().open(None, &pool)?;
    let superblock = opened.store.superblock();
    if superblock.state == DataState::Whole {
        return Err(RollbackError::Whole);
    }
    let undo = superblock.undo.clone().ok_or(RollbackError::NotKept)?;
    if !args.undo.exists() {
        return Err(RollbackError::NotKept);
    }
    let file = UndoFile::open(&args.undo, 1 << opened.store.geometry().chunk_shift())?;
    let entries = file.entries(undo.number)?;
    let bytes: u64 = entries.iter().map(|entry| entry.span.len).sum();
    let history = undo.generations.last().map_or("none".into(), |last| format!("epoch {}.{}", last.epoch, last.turn));
    println!(
        "Replica {}: {} chunks ({} MiB) are put back. Its image is then the one of before the resync, of {history}: everything that was \
         written since is lost to it. It gets another name, and all of it is compared when it next meets another replica.",
        superblock.incarnation,
        entries.len(),
        bytes >> 20,
    );
    confirm(args.yes)?;
    if entries.iter().any(|entry| !opened.store.geometry().holds(entry.span)) {
        return Err(RollbackError::Rotten { path: args.undo.clone() });
    }
    for entry in &entries {
        put_back(&opened.backings, &file, entry, &pool, &args.undo)?;
    }
    for backing in &opened.backings {
        backing.disk().flush().map_err(RollbackError::Write)?;
    }
    let name = new_name();
    opened.roll_back(name.clone())?;
    file.clear()?;
    println!("rolled back: the replica is {name}, and whole. Start its node, and force the failover if it is to serve");
    Ok(())
}

fn put_back(
    backings: &[crate::backing::Backing],
    file: &UndoFile,
    entry: &Entry,
    pool: &Pool,
    path: &std::path::Path,
) -> Result<(), RollbackError> {
    let data = file.read(entry)?.ok_or_else(|| RollbackError::Rotten { path: path.to_owned() })?;
    let mut aligned = pool.take(data.len());
    aligned.as_mut().copy_from_slice(&data);
    let backing = &backings[entry.span.volume.0 as usize];
    backing.disk().write(entry.span.at, aligned.as_ref(), false).map_err(RollbackError::Write)
}
