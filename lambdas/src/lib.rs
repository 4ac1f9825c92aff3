//! The control plane: three functions that watch leases from outside the instances, decide who takes over, and make the
//! network match.
//!
//! | function    | woken by                                                   | does                                       |
//! |-------------|------------------------------------------------------------|--------------------------------------------|
//! | `failover`  | events of nodes and of EC2, and by hand ([`api`])           | decides, nominates, moves routes, tells     |
//! | `watch`     | every minute                                               | backstop: founds, corrects drift, measures  |
//! | `configure` | CloudFormation                                             | checks and stores a cluster's configuration |
//!
//! Each may be run twice, at once, late, or die anywhere: every event is only a hint to read the row again, every change
//! of the row is one conditional write, and the network is always made to match what the row says now.
//!
//! Pure: [`decide`], [`topology`], [`routing`], [`budget`]. Everything that can be done to the world is in [`cloud`].

pub mod api;
#[cfg(feature = "aws")]
pub mod aws;
pub mod budget;
pub mod cloud;
pub mod configure;
pub mod converge;
pub mod deadline;
pub mod decide;
pub mod discovery;
pub mod dry_run;
pub mod environment;
pub mod event;
pub mod failover;
#[cfg(feature = "aws")]
pub mod host;
pub mod metrics;
pub mod observe;
pub mod operate;
pub mod report;
pub mod routing;
pub mod status;
pub mod targets;
pub mod topology;
pub mod watch;
