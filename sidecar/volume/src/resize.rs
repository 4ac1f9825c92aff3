//! `leasehold volume resize`: a replica is told that its disks have become larger.

use crate::create::Which;
use crate::drive::area::AreaError;
use crate::drive::resize::Resized;

/// Make a replica's volumes as large as its disks have become, while its node's daemon is stopped
///
/// One node after the other, the standby first: stop its daemon, enlarge its disks, run this, start the daemon, and wait until it is in
/// sync; switch over; then the same on the other node. Clients see the new size as soon as a node leads that has it.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub which: Which,
    /// How many bytes the first backing had before, if its metadata lie at its end and did not end at a whole MiB
    #[arg(long, value_name = "BYTES", conflicts_with = "metadata")]
    pub was: Option<u64>,
}

/// Resizes it, and tells what it has become.
///
/// # Errors
/// [`AreaError`]: it is as it was, or says itself that this must be done again.
pub fn run(args: &Args) -> Result<(), AreaError> {
    let Resized { before, now } = args.which.files().resize(args.was)?;
    for ((path, before), now) in args.which.backing.iter().zip(&before).zip(&now) {
        if before == now {
            println!("{}: a volume of {now} bytes, as before", path.display());
        } else {
            println!("{}: a volume of {now} bytes, {before} before", path.display());
        }
    }
    if before != now {
        println!(
            "start the node's daemon: it follows as before; what was gained is compared with each other replica once that has it, too. A node \
             that is not resized does not follow one that leads with more"
        );
    }
    Ok(())
}
