//! The node's side of leasehold: a pure machine (`node`) that decides, and around it everything that touches the world.
//!
//! ```text
//!            peers ◀──TLS──▶ other nodes          store ◀──▶ DynamoDB (row)      heartbeat ──▶ DynamoDB (item)
//!              │ ping, pong                          │ read, written                  ▲ said
//!              ▼                                     ▼                                │
//!   clock ─▶ run: event ─▶ node::Node::step ─▶ effects ─┬─▶ address (netlink, lent by the second)
//!                                                       ├─▶ resources (cgroup, commands, checks)
//!                                                       ├─▶ bus (EventBridge hints)
//!                                                       ├─▶ volumes (the group's thread)
//!                                                       └─▶ fence (reboot)
//! ```

pub use ::node;

pub mod address;
pub mod admin;
pub mod aws;
pub mod bus;
pub mod clock;
pub mod config;
pub mod core;
pub mod fence;
pub mod health;
pub mod heartbeat;
pub mod identity;
pub mod mailbox;
pub mod metrics;
pub mod notify;
pub mod once;
pub mod peers;
pub mod ports;
pub mod resources;
pub mod run;
pub mod screen;
pub mod snapshot;
pub mod standstill;
pub mod state_dir;
pub mod status;
pub mod store;
pub mod tls;
pub mod volumes;
