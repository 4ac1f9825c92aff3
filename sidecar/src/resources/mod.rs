//! The workload: what runs only while this node is active.
//!
//! Everything it starts lives in one cgroup, so that "nothing of it is left" is the kernel's statement and not a guess:
//!
//! ```text
//! workload/            cgroup.kill here ends all, cgroup.events here says when all are gone
//!   nginx/             what its start and stop commands left running
//!   nginx.check/       its check, killed when it hangs
//! ```
//!
//! Mounts are not in it: they outlive the processes that made them, and are taken away after these.

pub mod cgroup;
pub mod command;
pub mod http;
pub mod loop_device;
pub mod mount;
mod mountinfo;
pub mod workload;

use lease::ids::{ClusterId, Epoch, NodeId};
use lease::time::Millis;
use std::net::IpAddr;
use std::path::PathBuf;

/// One resource of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    pub name: String,
    pub kind: Kind,
    pub start_limit: Millis,
    /// For stopping it in order, and for what it leaves running to end.
    pub stop_limit: Millis,
    pub check_limit: Millis,
    pub check_every: Millis,
    /// Checks that must fail in a row.
    pub failures: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Script(Script),
    Mount(mount::Mount),
}

/// Commands of the operator's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// Returns 0 once the resource runs.
    pub start: Vec<String>,
    /// Returns 0 once it was told to end. `None`: it is killed.
    pub stop: Option<Vec<String>>,
    pub check: Option<Check>,
}

impl Kind {
    /// The file system that it mounts.
    #[must_use]
    pub fn mount(&self) -> Option<&mount::Mount> {
        match self {
            Self::Mount(mount) => Some(mount),
            Self::Script(_) => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// Returns 0 while all is well.
    Command(Vec<String>),
    /// Answers 200 to 299 while all is well.
    Http(String),
}

/// What the core may ask of the workload. A later order ends an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Start { epoch: Epoch },
    Stop,
    Kill,
}

/// What commands are told about where they run.
#[derive(Clone, Debug)]
pub struct Surroundings {
    pub cluster: ClusterId,
    pub node: NodeId,
    pub virtual_ips: Vec<IpAddr>,
    /// Puts itself into a cgroup and becomes the command: this very program.
    pub launcher: PathBuf,
}
