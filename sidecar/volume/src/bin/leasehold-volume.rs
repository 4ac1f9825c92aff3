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
    Serve(volume::serve::Args),
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("LEASEHOLD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let Verb::Serve(args) = Cli::parse().verb;
    let served = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Into::into)
        .and_then(|runtime| runtime.block_on(volume::serve::run(args)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("leasehold-volume: {error}");
            ExitCode::FAILURE
        }
    }
}
