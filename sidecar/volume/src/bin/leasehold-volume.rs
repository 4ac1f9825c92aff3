//! The volume's verbs alone, without the daemon and its AWS SDKs: what the volume's tests and benchmarks start. Users have
//! them as `leasehold volume`.

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

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
    /// Tell what a replica that is not in use remembers
    DumpMetadata(volume::create::Which),
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("LEASEHOLD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let done = match Cli::parse().verb {
        Verb::Serve(args) => serve(*args),
        Verb::Create(args) => volume::create::run(&args).map_err(Into::into),
        Verb::DumpMetadata(which) => volume::create::dump(&which).map_err(Into::into),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("leasehold-volume: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: volume::serve::Args) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(volume::serve::run(args))?)
}
