//! `leasehold`: the daemon of a node, and the operator's verbs on it.

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use sidecar::config::{DEFAULT_SOCKET, NodeConfig};
use sidecar::{admin, resources, run, screen, tls};
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;
use volume::operate::verbs;

/// High availability for EC2 instances: a lease, an address and a workload that only the lease's holder runs.
#[derive(Debug, Parser)]
#[command(name = "leasehold", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run this node's daemon
    Node {
        /// The node's configuration
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Only read the configuration and tell every mistake in it
        #[arg(long)]
        check: bool,
        /// Make the volumes' block devices in this folder, by nbdfuse and loop devices, for kernels without an NBD client. Not
        /// for data that matters: it can deadlock when memory runs out
        #[arg(long, value_name = "FOLDER")]
        dev: Option<PathBuf>,
    },
    /// Show what this node believes: who serves, why, and what would happen now
    Status {
        /// The daemon's admin socket
        #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
        socket: PathBuf,
        /// Everything, as JSON
        #[arg(long)]
        json: bool,
    },
    /// Volumes: block devices that are served by NBD
    Volume {
        #[command(subcommand)]
        verb: VolumeVerb,
    },
    /// Enter a cgroup and become a command; how the daemon starts everything of the workload
    #[command(hide = true)]
    Launch {
        #[arg(long)]
        cgroup: PathBuf,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
enum VolumeVerb {
    Serve(Box<volume::serve::Args>),
    Create(volume::create::Args),
    Rollback(volume::rollback::Args),
    /// Show this node's volumes: whether each replica has everything, how far a copy is and when it will be done
    Status {
        /// The daemon's admin socket
        #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
        socket: PathBuf,
        /// As JSON
        #[arg(long, conflicts_with = "watch")]
        json: bool,
        /// Again each second, until interrupted
        #[arg(long)]
        watch: bool,
    },
    Verify(verbs::VerifyArgs),
    Resync(verbs::ResyncArgs),
    ForgetPeer(verbs::ForgetArgs),
    Resize(volume::resize::Args),
    Discard(volume::discard::Args),
    /// Tell what a replica that is not in use remembers
    DumpMetadata(volume::create::Which),
}

fn main() -> ExitCode {
    match start(Cli::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("leasehold: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Node { config, check, dev } => {
            let config = NodeConfig::load(&config)?;
            if check {
                println!("node {} of cluster {}: the configuration is good", config.node, config.cluster);
                return Ok(ExitCode::SUCCESS);
            }
            node(config, dev.as_deref())
        }
        Verb::Status { socket, json } => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let status = runtime.block_on(admin::ask(&socket))?;
            if json {
                println!("{}", serde_json::to_string_pretty(&status)?);
            } else {
                print!("{}", screen::render(&status));
            }
            // For scripts: 0 well, 2 something needs an operator.
            Ok(if screen::is_well(&status) { ExitCode::SUCCESS } else { ExitCode::from(2) })
        }
        Verb::Volume { verb } => {
            log();
            match verb {
                VolumeVerb::Serve(args) => {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                    runtime.block_on(volume::serve::run(*args))?;
                }
                VolumeVerb::Create(args) => volume::create::run(&args)?,
                VolumeVerb::Resize(args) => volume::resize::run(&args)?,
                VolumeVerb::Discard(args) => volume::discard::run(&args)?,
                VolumeVerb::Rollback(args) => volume::rollback::run(&args)?,
                VolumeVerb::DumpMetadata(which) => volume::create::dump(&which)?,
                VolumeVerb::Verify(args) => return asks(verbs::verify(args)),
                VolumeVerb::Resync(args) => return asks(verbs::resync(args)),
                VolumeVerb::ForgetPeer(args) => return asks(verbs::forget(args)),
                VolumeVerb::Status { socket, json, watch } => return volume_status(&socket, json, watch),
            }
            Ok(ExitCode::SUCCESS)
        }
        Verb::Launch { cgroup, command } => Err(resources::command::launch(&cgroup, &command).into()),
    }
}

/// A verb that asks the running daemon.
fn asks(verb: impl Future<Output = Result<ExitCode, verbs::VerbError>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(verb)?)
}

/// 0: well; 2: something needs an operator.
fn volume_status(socket: &Path, json: bool, watch: bool) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    loop {
        let status = runtime.block_on(admin::ask(socket))?;
        if json {
            println!("{}", serde_json::to_string_pretty(&status["volumes"])?);
        } else {
            // Where it is watched, each page takes the place of the one before.
            let clear = if watch && std::io::stdout().is_terminal() { "\x1b[H\x1b[J" } else { "" };
            print!("{clear}{}", screen::volumes::page(&status));
            std::io::stdout().flush()?;
        }
        if !watch {
            return Ok(if screen::is_well(&status) { ExitCode::SUCCESS } else { ExitCode::from(2) });
        }
        runtime.block_on(async { tokio::time::sleep(std::time::Duration::from_secs(1)).await });
    }
}

/// What is told goes to the standard error, where systemd's journal takes it.
fn log() {
    let filter = EnvFilter::try_from_env("LEASEHOLD_LOG").unwrap_or_else(|_| EnvFilter::new("info,aws_config=warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

fn node(config: NodeConfig, dev: Option<&Path>) -> anyhow::Result<ExitCode> {
    log();
    // A part that panicked must not leave a half-living node behind: the kernel takes the address away, and whoever
    // started the daemon ends what it started.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        std::process::abort();
    }));
    tls::install();
    // The core has the main thread and a timer of its own, so that nothing of the other parts delays it. It does no I/O
    // itself, so its thread sleeps on a futex, which costs half of what a poller would.
    let parts = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let core = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let ended = match parts.block_on(run::start(config, dev)).context("the daemon does not start")? {
        Some(running) => core.block_on(running.run()).context("the daemon ended"),
        None => Ok(()),
    };
    // Whatever still hangs in a thread has nothing left to do.
    parts.shutdown_background();
    ended.map(|()| ExitCode::SUCCESS)
}
