//! `leasehold volume verify`, `resync` and `forget-peer`: what an operator types.

use super::routes::{Done, Replica, Verify};
use super::show;
use super::socket::{self, SocketError};
use serde_json::{Value, json};
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Between two looks at a verification.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Compare each replica in step with this node's, by hashes, while they are in use
///
/// At the rate of [volumes].verify_mib_s. A replica that differs is not failed over to any more, and nothing is copied over it
/// until somebody decides which one is right. Exit code 2: something differs, or not all was compared.
#[derive(Clone, Debug, clap::Args)]
pub struct VerifyArgs {
    /// The volume; without it, all of them
    pub name: Option<String>,
    /// Stay until it has ended, and show how far it is
    #[arg(long)]
    pub watch: bool,
    /// With --watch: the result as JSON, and nothing before
    #[arg(long, requires = "watch")]
    pub json: bool,
    /// The daemon's admin socket
    #[arg(long, value_name = "PATH", default_value = socket::DEFAULT)]
    pub socket: PathBuf,
}

/// Compare all of another replica with this node's, and copy over it what differs
#[derive(Clone, Debug, clap::Args)]
pub struct ResyncArgs {
    /// Its node, or its own name as `leasehold volume status --json` has it
    pub node: String,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// The daemon's admin socket
    #[arg(long, value_name = "PATH", default_value = socket::DEFAULT)]
    pub socket: PathBuf,
}

/// Forget a replica that does not come back: its place, and what it lacks
#[derive(Clone, Debug, clap::Args)]
pub struct ForgetArgs {
    /// Its own name, as `leasehold volume status --json` has it
    pub replica: String,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// The daemon's admin socket
    #[arg(long, value_name = "PATH", default_value = socket::DEFAULT)]
    pub socket: PathBuf,
}

/// Why a verb did nothing.
#[derive(Debug, thiserror::Error)]
pub enum VerbError {
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("this node knows no replica of {asked:?}; it knows {known}")]
    Unknown { asked: String, known: String },
    #[error("not confirmed: nothing was done; say --yes where nobody can be asked")]
    NotConfirmed,
    #[error("the daemon has begun another verification since: `leasehold volume status` shows it")]
    Another,
    #[error("the terminal: {0}")]
    Terminal(#[from] io::Error),
}

/// # Errors
/// [`VerbError`].
pub async fn verify(args: VerifyArgs) -> Result<ExitCode, VerbError> {
    let asked = json!(Verify { volume: args.name.clone() });
    let Done { verification: begun } = socket::tell(&args.socket, "/volumes/verify", &asked).await?;
    if !args.watch {
        println!("the verification has begun: `leasehold volume status` shows how far it is, and what it found");
        return Ok(ExitCode::SUCCESS);
    }
    let mut shown = 0;
    loop {
        let status = socket::ask(&args.socket).await?;
        let verification = &status["volumes"]["verification"];
        let number = verification["number"].as_u64().unwrap_or_default();
        if number > begun {
            return Err(VerbError::Another);
        }
        let ended = number == begun && !verification["ended_ms_ago"].is_null();
        if number == begun && (ended || !args.json && io::stdout().is_terminal()) {
            let lines = show::lines(verification, |incarnation| node_of(&status, incarnation));
            if args.json {
                println!("{verification:#}");
            } else {
                // Where it is watched, each page takes the place of the one before.
                if shown > 0 {
                    print!("\x1b[{shown}A\x1b[J");
                }
                shown = lines.len();
                lines.iter().for_each(|line| println!("{line}"));
            }
            io::stdout().flush()?;
        }
        if ended {
            let same = verification["same"].as_bool() == Some(true);
            return Ok(if same { ExitCode::SUCCESS } else { ExitCode::from(2) });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// # Errors
/// [`VerbError`].
pub async fn resync(args: ResyncArgs) -> Result<ExitCode, VerbError> {
    let status = socket::ask(&args.socket).await?;
    let incarnation = replica_of(&status, &args.node)?;
    println!(
        "All of the copy on {} (replica {incarnation}) is compared with this node's, and copied over where it differs: what \
         only that copy holds is gone for good. It leaves the in-sync set first, and nothing is failed over to it until it is back.",
        args.node
    );
    confirm(args.yes)?;
    let _: Done = socket::tell(&args.socket, "/volumes/resync", &json!(Replica { incarnation })).await?;
    println!("the resync has begun: `leasehold volume status --watch` shows how far it is");
    Ok(ExitCode::SUCCESS)
}

/// # Errors
/// [`VerbError`].
pub async fn forget(args: ForgetArgs) -> Result<ExitCode, VerbError> {
    let status = socket::ask(&args.socket).await?;
    let incarnation = replica_of(&status, &args.replica)?;
    println!(
        "Replica {incarnation} is forgotten here: its place, and which chunks it lacks. No data changes. Should it come back, all of \
         its copy is compared."
    );
    confirm(args.yes)?;
    let _: Done = socket::tell(&args.socket, "/volumes/forget-peer", &json!(Replica { incarnation })).await?;
    println!("forgotten");
    Ok(ExitCode::SUCCESS)
}

/// Asks at the terminal; without one nobody can be asked.
pub(crate) fn confirm(yes: bool) -> Result<(), VerbError> {
    if yes {
        return Ok(());
    }
    print!("Go on? [y/N] ");
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(VerbError::NotConfirmed) }
}

fn list<'v>(status: &'v Value, at: &str) -> impl Iterator<Item = &'v Value> {
    status.pointer(at).and_then(Value::as_array).into_iter().flatten()
}

/// The node of a replica; its own name where no node says that it is its.
fn node_of(status: &Value, incarnation: &str) -> String {
    let its = |peer: &&Value| peer["incarnation"] == incarnation;
    let node = list(status, "/peers").find(its).and_then(|peer| peer["node"].as_str());
    node.unwrap_or(incarnation).to_owned()
}

/// The replica of a node, or the one with this very name.
fn replica_of(status: &Value, asked: &str) -> Result<String, VerbError> {
    let by_node =
        list(status, "/peers").find(|peer| peer["node"] == asked).and_then(|peer| peer["incarnation"].as_str());
    let replicas: Vec<&str> = list(status, "/volumes/peers").filter_map(|peer| peer["incarnation"].as_str()).collect();
    let found = by_node.or_else(|| replicas.iter().copied().find(|replica| *replica == asked));
    found.map(str::to_owned).ok_or_else(|| {
        let nodes = list(status, "/peers").filter_map(|peer| peer["node"].as_str());
        let known = nodes.chain(replicas.iter().copied()).collect::<Vec<_>>().join(", ");
        VerbError::Unknown { asked: asked.to_owned(), known: if known.is_empty() { "none".to_owned() } else { known } }
    })
}
