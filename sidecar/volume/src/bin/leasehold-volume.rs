//! The volume's verbs alone, without the daemon and its AWS SDKs: what the volume's tests and benchmarks start. Users have
//! them as `leasehold volume`.

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;
use volume::operate::verbs;

/// Volumes: block devices that are served by NBD
#[derive(Debug, Parser)]
#[command(name = "leasehold-volume", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Serve(Box<volume::serve::Args>),
    Create(volume::create::Args),
    Resize(volume::resize::Args),
    Discard(volume::discard::Args),
    Rollback(volume::rollback::Args),
    Verify(verbs::VerifyArgs),
    Resync(verbs::ResyncArgs),
    ForgetPeer(verbs::ForgetArgs),
    /// Tell what a replica that is not in use remembers
    DumpMetadata(volume::create::Which),
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("LEASEHOLD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let done = match Cli::parse().verb {
        Verb::Serve(args) => serve(*args),
        Verb::Verify(args) => return code(verbs::verify(args)),
        Verb::Resync(args) => return code(verbs::resync(args)),
        Verb::ForgetPeer(args) => return code(verbs::forget(args)),
        Verb::Create(args) => volume::create::run(&args).map_err(Into::into),
        Verb::Resize(args) => volume::resize::run(&args).map_err(Into::into),
        Verb::Discard(args) => volume::discard::run(&args).map_err(Into::into),
        Verb::Rollback(args) => volume::rollback::run(&args).map_err(Into::into),
        Verb::DumpMetadata(which) => volume::create::dump(&which).map_err(Into::into),
    };
    ended(done.map(|()| ExitCode::SUCCESS))
}

fn ended(done: Result<ExitCode, Box<dyn std::error::Error>>) -> ExitCode {
    done.unwrap_or_else(|error| {
        eprintln!("leasehold-volume: {error}");
        ExitCode::FAILURE
    })
}

/// Of a verb that asks a running daemon.
fn code(verb: impl Future<Output = Result<ExitCode, verbs::VerbError>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return ended(Err(error.into())),
    };
    ended(runtime.block_on(verb).map_err(Into::into))
}

fn serve(args: volume::serve::Args) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(volume::serve::run(args))?)
}
