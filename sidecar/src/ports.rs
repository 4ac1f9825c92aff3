//! Ports of this node's own addresses that the active node alone answers, lent by the millisecond.
//!
//! Clients that come by a load balancer or a DNS record reach the nodes' own addresses, which no kernel takes away as it does a virtual
//! one. So these ports are closed by a table of nftables, and open only while they are elements of a set there, each with a time-out:
//! a daemon that is stopped, starved or dead cannot go on serving, for nobody extends them. A load balancer whose targets all fail their
//! health checks sends to all of them, so a standby must refuse by itself.
//!
//! ```text
//!  authority ├───────────────────────────────────────────┤ deadline
//!  kernel    ├──────────────────────────────────────┤      never past the deadline, KERNEL_LATE included
//! ```
//! Refused are packets, not connections: also those of a connection that was made while the port was open, in both directions. What comes
//! from this machine itself (interface `lo`) passes. The table stays, closed, when the daemon ends.

mod netfilter;

use crate::address::Order;
use crate::clock;
use crate::once::Once;
use lease::config::Ports;
use lease::heartbeat::ResourceHealth;
use lease::ids::ClusterId;
use lease::time::{Millis, Moment};
use netfilter::{Batch, Netfilter};
use std::collections::BTreeSet;
use std::io;
use std::process::Stdio;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::watch;

/// How late the kernel may close a port: time-outs end by its ticks (10 ms at HZ=100), and are rounded up to them.
const KERNEL_LATE: Millis = Millis(50);
/// An extension is worth a request to the kernel if it adds at least this much. Orders come several times a second.
const WORTH: Millis = Millis(400);
/// For `nft` to make the table.
const NFT_LIMIT: Millis = Millis(5_000);
/// Names of sets in the table.
const GUARDED: &str = "guarded";
const OPEN: &str = "open";

#[derive(Debug, thiserror::Error)]
pub enum PortsError {
    #[error("the cluster's [ports] need the program nft, which cannot be run: {0}; install the package nftables")]
    NoNft(io::Error),
    #[error("nft does not make table {table}: {said}{hint}")]
    Nft { table: String, said: String, hint: &'static str },
    #[error("{action} of table {table}: {error}{hint}")]
    Netlink { action: &'static str, table: String, error: io::Error, hint: &'static str },
}

/// What is open on the node, as far as this daemon knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The service's ports.
    pub open: bool,
    /// The port for health checks: open, and answered well.
    pub healthy: bool,
    pub problem: Option<String>,
}

/// What one time-out, already set, means in time.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Lent {
    /// Before the request was sent, and after it was answered: the kernel counts from somewhere between.
    before: Moment,
    after: Moment,
    lifetime: Millis,
    ports: BTreeSet<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// What the kernel has is right.
    Leave,
    /// Open for so long from now.
    Lend(Millis),
    Close,
}

/// What to do about `ports`, given what the kernel has and the authority that is left.
fn plan(lent: Option<&Lent>, ports: &BTreeSet<u16>, left: Millis, now: Moment) -> Step {
    let wanted = left.minus(KERNEL_LATE);
    let kept = lent.map(|lent| {
        let at_least = lent.lifetime.minus(now.longest_since(lent.before));
        let at_most = lent.lifetime.plus(KERNEL_LATE).minus(now.shortest_since(lent.after));
        (at_least, at_most, lent.ports == *ports)
    });
    match kept {
        None | Some((_, Millis::ZERO, _)) if wanted == Millis::ZERO => Step::Leave,
        None | Some((_, Millis::ZERO, _)) => Step::Lend(wanted),
        Some((_, at_most, _)) if at_most > left && wanted == Millis::ZERO => Step::Close,
        Some((at_least, at_most, same)) if at_most > left || !same || wanted >= at_least.plus(WORTH) => {
            Step::Lend(wanted)
        }
        Some(_) => Step::Leave,
    }
}

/// The ports of one cluster, and the table that closes them.
#[derive(Debug)]
pub struct Gate {
    ports: Ports,
    table: String,
    netfilter: Netfilter,
    lent: Option<Lent>,
}

fn table_of(cluster: &ClusterId) -> String {
    format!("leasehold-{cluster}")
}

fn hint(error: &io::Error) -> &'static str {
    if error.raw_os_error() == Some(EPERM) { "; the daemon needs CAP_NET_ADMIN" } else { "" }
}

const EOPNOTSUPP: i32 = nix::errno::Errno::EOPNOTSUPP as i32;
const EPROTONOSUPPORT: i32 = nix::errno::Errno::EPROTONOSUPPORT as i32;
const EPERM: i32 = nix::errno::Errno::EPERM as i32;

impl Gate {
    /// Closes the ports, whatever an earlier daemon left open, in the caller's network namespace.
    ///
    /// # Errors
    /// [`PortsError`]: they may be open.
    pub async fn close(cluster: &ClusterId, ports: Ports) -> Result<Self, PortsError> {
        let table = table_of(cluster);
        let netfilter = Netfilter::open().map_err(|error| failed("opening a netlink socket", &table, error))?;
        let gate = Self { ports, table, netfilter, lent: None };
        gate.make().await?;
        Ok(gate)
    }

    /// Of a cluster that has no such ports any more: nothing is closed.
    ///
    /// # Errors
    /// [`PortsError::Netlink`]: some may be closed still.
    pub fn remove(cluster: &ClusterId) -> Result<(), PortsError> {
        let table = table_of(cluster);
        let result = Netfilter::open().and_then(|netfilter| netfilter.send(Batch::new().delete_table(&table)));
        match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            // A kernel without nftables closes nothing.
            Err(error) if matches!(error.raw_os_error(), Some(EOPNOTSUPP | EPROTONOSUPPORT)) => Ok(()),
            other => other.map_err(|error| failed("removal", &table, error)),
        }
    }

    /// The whole table, in one transaction: with all closed.
    async fn make(&self) -> Result<(), PortsError> {
        let mut nft = Command::new("nft");
        nft.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut nft = nft.spawn().map_err(PortsError::NoNft)?;
        let mut stdin = nft.stdin.take().expect("piped");
        let told = rules(&self.table, &self.ports.guarded());
        let said = async {
            stdin.write_all(told.as_bytes()).await?;
            drop(stdin);
            nft.wait_with_output().await
        };
        let wrong = |said: String| {
            let hint = if said.contains("not permitted") { "; the daemon needs CAP_NET_ADMIN" } else { "" };
            PortsError::Nft { table: self.table.clone(), said, hint }
        };
        match tokio::time::timeout(NFT_LIMIT.into(), said).await {
            Err(_) => Err(wrong(format!("it does not end within {NFT_LIMIT}"))),
            Ok(Err(error)) => Err(wrong(error.to_string())),
            Ok(Ok(done)) if !done.status.success() => {
                Err(wrong(String::from_utf8_lossy(&done.stderr).trim().to_owned()))
            }
            Ok(Ok(_)) => Ok(()),
        }
    }

    /// Follows `orders` until their sender is gone; then closes the ports. `health` opens the port for health checks.
    pub async fn follow(
        mut self,
        mut orders: watch::Receiver<Order>,
        mut health: watch::Receiver<Vec<ResourceHealth>>,
        state: watch::Sender<State>,
    ) {
        let mut told = Once::default();
        loop {
            let order = *orders.borrow_and_update();
            let is_well = health.borrow_and_update().iter().all(|resource| resource.state == "running");
            let problem = self.obey(order, is_well).await.err().map(|error| error.to_string());
            match &problem {
                Some(problem) if told.is_new(problem, clock::now()) => tracing::error!(problem, "ports"),
                Some(_) => {}
                None => told.forget(),
            }
            let now = clock::now();
            let lent =
                self.lent.as_ref().map(|lent| (lent.lifetime.minus(now.longest_since(lent.before)), &lent.ports));
            let lent = lent.filter(|(left, _)| *left > Millis::ZERO);
            let healthy = lent.is_some_and(|(_, ports)| self.ports.health.is_some_and(|port| ports.contains(&port)));
            let next = State { open: lent.is_some(), healthy, problem };
            let failed = next.problem.is_some();
            state.send_if_modified(|state| {
                *state != next && {
                    *state = next;
                    true
                }
            });
            let again = match order {
                _ if failed => Some(Millis(100)),
                Order::Drop => None,
                Order::Hold { .. } => Some(lent.map_or(Millis(100), |(left, _)| Millis(left.0 / 2).max(Millis(50)))),
            };
            let gone = tokio::select! {
                changed = orders.changed() => changed.is_err(),
                changed = health.changed() => changed.is_err(),
                () = pause(again) => false,
            };
            if gone {
                let _ = self.shut();
                return;
            }
        }
    }

    async fn obey(&mut self, order: Order, is_well: bool) -> Result<(), PortsError> {
        let (from, at_most) = match order {
            Order::Drop if self.lent.is_none() => return Ok(()),
            Order::Drop => return self.shut(),
            Order::Hold { from, at_most } => (from, at_most),
        };
        let health = self.ports.health.filter(|_| is_well);
        let ports: BTreeSet<u16> = self.ports.service.iter().copied().chain(health).collect();
        // Twice at most: a pause between reading the clock and the kernel's answer makes the first one too long.
        for _ in 0..2 {
            let before = clock::now();
            match plan(self.lent.as_ref(), &ports, before.left_of(from, at_most), before) {
                Step::Leave => break,
                Step::Close => return self.shut(),
                Step::Lend(lifetime) => {
                    self.set(&ports, lifetime).await?;
                    self.lent = Some(Lent { before, after: clock::now(), lifetime, ports: ports.clone() });
                }
            }
        }
        Ok(())
    }

    fn shut(&mut self) -> Result<(), PortsError> {
        let batch = Batch::new().empty_set(&self.table, OPEN);
        match self.netfilter.send(batch) {
            // Somebody has emptied the machine's rules. Nothing runs behind these ports then; opening makes it anew.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("closing ports", &self.table, error));
            }
            _ => self.lent = None,
        }
        Ok(())
    }

    async fn set(&self, ports: &BTreeSet<u16>, lifetime: Millis) -> Result<(), PortsError> {
        // In one transaction: no packet meets the set in between.
        let batch = || Batch::new().empty_set(&self.table, OPEN).fill_set(&self.table, OPEN, ports, lifetime);
        let result = match self.netfilter.send(batch()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::warn!(
                    table = self.table,
                    "somebody has removed the table that closes the ports; making it anew"
                );
                self.make().await?;
                self.netfilter.send(batch())
            }
            other => other,
        };
        result.map_err(|error| failed("opening ports", &self.table, error))
    }
}

async fn pause(span: Option<Millis>) {
    match span {
        Some(span) => tokio::time::sleep(span.into()).await,
        None => std::future::pending().await,
    }
}

fn failed(action: &'static str, table: &str, error: io::Error) -> PortsError {
    PortsError::Netlink { action, table: table.to_owned(), hint: hint(&error), error }
}

/// For `nft -f`. Before a container's ports are translated, and after: a port that a container publishes is closed, too. A reset
/// leaves, which is how a segment is refused, and says nothing of the service.
fn rules(table: &str, guarded: &BTreeSet<u16>) -> String {
    let guarded = guarded.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    format!(
        "table inet {table}
delete table inet {table}
table inet {table} {{
  set {GUARDED} {{ type inet_service; elements = {{ {guarded} }}; }}
  set {OPEN} {{ type inet_service; flags timeout; }}
  chain refuse {{
    meta l4proto tcp reject with tcp reset
    reject
  }}
  chain arriving {{
    type filter hook prerouting priority raw; policy accept;
    iifname \"lo\" accept
    fib daddr type local meta l4proto {{ tcp, udp }} th dport @{GUARDED} th dport != @{OPEN} goto refuse
  }}
  chain leaving {{
    type filter hook postrouting priority 300; policy accept;
    oifname \"lo\" accept
    tcp flags & rst == rst accept
    fib saddr type local meta l4proto {{ tcp, udp }} th sport @{GUARDED} th sport != @{OPEN} drop
  }}
}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment { boottime_us: 1_000_000, monotonic_raw_us: 5_000_000 }.after(Millis(ms))
    }

    fn ports() -> BTreeSet<u16> {
        BTreeSet::from([5432])
    }

    fn lent(at_ms: u64, lifetime: u64) -> Lent {
        Lent { before: at(at_ms), after: at(at_ms), lifetime: Millis(lifetime), ports: ports() }
    }

    #[test]
    fn a_time_out_ends_before_the_authority_does_even_when_the_kernel_is_late() {
        assert_eq!(plan(None, &ports(), Millis(3_000), at(0)), Step::Lend(Millis(2_950)));
        assert_eq!(plan(None, &ports(), Millis(50), at(0)), Step::Leave);
        // Three seconds were lent; the authority has shrunk to one.
        assert_eq!(plan(Some(&lent(0, 3_000)), &ports(), Millis(1_000), at(100)), Step::Lend(Millis(950)));
        assert_eq!(plan(Some(&lent(0, 3_000)), &ports(), Millis(30), at(100)), Step::Close);
    }

    #[test]
    fn what_adds_little_is_left_and_other_ports_are_not() {
        assert_eq!(plan(Some(&lent(0, 2_950)), &ports(), Millis(3_000), at(300)), Step::Leave);
        assert_eq!(plan(Some(&lent(0, 2_950)), &ports(), Millis(3_000), at(400)), Step::Lend(Millis(2_950)));
        let more = BTreeSet::from([5432, 7402]);
        assert_eq!(plan(Some(&lent(0, 2_950)), &more, Millis(3_000), at(10)), Step::Lend(Millis(2_950)));
        // Gone by the kernel's own doing.
        assert_eq!(plan(Some(&lent(0, 1_000)), &ports(), Millis(500), at(1_100)), Step::Lend(Millis(450)));
    }

    #[test]
    fn a_pause_between_clock_and_kernel_is_repaired() {
        // The clock was read at 0, the kernel heard at 1.5 s: it would keep the port open to 4.5 s; the deadline is 3 s.
        let late = Lent { before: at(0), after: at(1_500), lifetime: Millis(2_950), ports: ports() };
        assert_eq!(plan(Some(&late), &ports(), Millis(1_500), at(1_500)), Step::Lend(Millis(1_450)));
    }
}
