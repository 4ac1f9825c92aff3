//! The virtual addresses on this node, lent by the second.
//!
//! Each address is given to the kernel with a lifetime (`IFA_CACHEINFO`), so that the kernel itself takes it away when
//! nobody extends it: a daemon that is stopped, starved or dead cannot go on serving. The kernel's grain is one second
//! and it may be up to [`KERNEL_LATE`] late (`ADDRCONF_TIMER_FUZZ` in net/ipv4/devinet.c: HZ/4, plus HZ/50 early), so a
//! lifetime is the authority that is left, less that, rounded down.
//!
//! ```text
//!  authority ├───────────────────────────────────────────┤ deadline
//!  kernel    ├────────────────────┤ 2 s … at most 250 ms ─┤   never past the deadline
//!                             ▲ set again, while a whole second is left
//! ```

use crate::clock;
use futures::TryStreamExt;
use lease::time::{Millis, Moment};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, CacheInfo};
use rtnetlink::Handle;
use std::net::IpAddr;
use tokio::sync::watch;

/// How late the kernel may take an address away.
pub const KERNEL_LATE: Millis = Millis(250);
/// A lifetime is set again this long before it ends, if the authority allows another second.
const EXTEND_BEFORE: Millis = Millis(250);

/// An extension is worth a request to the kernel if it adds at least this much. Orders come several times a second.
const WORTH: Millis = Millis(400);

/// What the core wants, and since when. The latest order is the only one that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Drop,
    Hold { from: Moment, at_most: Millis },
}

/// What is on the node, as far as this daemon knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub held: bool,
    pub problem: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    #[error("there is no network interface {name:?} ([address].interface)")]
    NoInterface { name: String },
    #[error("{action} {address} on {interface}: {error}{hint}")]
    Netlink { action: &'static str, address: IpAddr, interface: String, error: rtnetlink::Error, hint: &'static str },
    #[error("no netlink socket: {0}")]
    Socket(std::io::Error),
}

/// What one lifetime, already set, means in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lent {
    /// Before the request was sent, and after it was answered: the kernel counts from somewhere between.
    before: Moment,
    after: Moment,
    lifetime: Millis,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// What the kernel has is right.
    Leave,
    /// Give it this many whole seconds from now.
    Lend { seconds: u32 },
    /// Less than a second is left and the kernel would keep it too long.
    Remove,
}

/// Whole seconds that the kernel may be given when `left` of the authority remains.
fn whole_seconds(left: Millis) -> u32 {
    u32::try_from(left.minus(KERNEL_LATE).0 / 1_000).unwrap_or(u32::MAX - 1)
}

/// What to do with an address, given what the kernel has and the authority that is left.
fn plan(lent: Option<Lent>, left: Millis, now: Moment) -> Step {
    let seconds = whole_seconds(left);
    let kept = lent.map(|lent| {
        let at_least = lent.lifetime.minus(now.longest_since(lent.before));
        let at_most = lent.lifetime.plus(KERNEL_LATE).minus(now.shortest_since(lent.after));
        (at_least, at_most)
    });
    match kept {
        // Gone by now, by the kernel's own doing, or never there.
        None | Some((_, Millis::ZERO)) if seconds == 0 => Step::Leave,
        None | Some((_, Millis::ZERO)) => Step::Lend { seconds },
        Some((_, at_most)) if at_most > left => {
            if seconds == 0 {
                Step::Remove
            } else {
                Step::Lend { seconds }
            }
        }
        Some((at_least, _)) if u64::from(seconds) * 1_000 >= at_least.plus(WORTH).0 => Step::Lend { seconds },
        Some(_) => Step::Leave,
    }
}

/// The addresses and the interface that carries them.
#[derive(Debug)]
pub struct Addresses {
    handle: Handle,
    interface: String,
    index: u32,
    /// Each address with what the kernel has of it: one may fail where another does not.
    addresses: Vec<(IpAddr, Option<Lent>)>,
}

impl Addresses {
    /// Opens the netlink socket in the caller's network namespace and finds the interface.
    ///
    /// # Errors
    /// [`AddressError`] where there is no such interface or no netlink socket.
    pub async fn open(interface: &str, addresses: Vec<IpAddr>) -> Result<Self, AddressError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(AddressError::Socket)?;
        tokio::spawn(connection);
        let addresses = addresses.into_iter().map(|address| (address, None)).collect();
        let mut opened = Self { handle, interface: interface.to_owned(), index: 0, addresses };
        opened.find_interface().await?;
        Ok(opened)
    }

    /// By name: an interface that was detached and attached again has another index.
    async fn find_interface(&mut self) -> Result<(), AddressError> {
        let mut links = self.handle.link().get().match_name(self.interface.clone()).execute();
        let Ok(Some(link)) = links.try_next().await else {
            return Err(AddressError::NoInterface { name: self.interface.clone() });
        };
        self.index = link.header.index;
        Ok(())
    }

    /// Takes away what an earlier daemon may have left. To be done before anything else: until it is done, this node
    /// may be answering for another.
    ///
    /// # Errors
    /// The last address that could not be taken away; the others are still tried, and this one again with the next order.
    pub async fn clear(&mut self) -> Result<(), AddressError> {
        let mut failed = Ok(());
        for at in 0..self.addresses.len() {
            if let Err(error) = self.remove(self.addresses[at].0).await {
                failed = Err(error);
            } else {
                self.addresses[at].1 = None;
            }
        }
        failed
    }

    /// Follows `orders` until their sender is gone; then takes the addresses away.
    pub async fn follow(mut self, mut orders: watch::Receiver<Order>, state: watch::Sender<State>) {
        loop {
            let order = *orders.borrow_and_update();
            let result = self.obey(order).await;
            let now = clock::now();
            // How long the kernel keeps the first of them to go; `None`: one is not there at all.
            let least_left = self
                .addresses
                .iter()
                .map(|(_, lent)| lent.map(|lent| lent.lifetime.minus(now.longest_since(lent.before))))
                .min()
                .flatten();
            let problem = result.err().map(|error| error.to_string());
            state.send_if_modified(|state| {
                let next = State { held: least_left.is_some_and(|left| left > Millis::ZERO), problem: problem.clone() };
                if *state == next {
                    return false;
                }
                if let Some(problem) = next.problem.as_ref().filter(|_| state.problem != next.problem) {
                    tracing::error!(problem, "virtual address");
                }
                *state = next;
                true
            });
            let again = match (order, least_left) {
                (Order::Hold { .. }, _) if self.addresses.is_empty() => None,
                (Order::Drop, _) if self.addresses.iter().all(|(_, lent)| lent.is_none()) => None,
                // A removal that failed, or an address that failed: soon again.
                (Order::Drop, _) | (Order::Hold { .. }, None) => Some(Millis(100)),
                (Order::Hold { .. }, Some(left)) => Some(left.minus(EXTEND_BEFORE).max(Millis(50))),
            };
            let changed = match again {
                None => orders.changed().await,
                Some(pause) => tokio::time::timeout(pause.into(), orders.changed()).await.unwrap_or(Ok(())),
            };
            if changed.is_err() {
                let _ = self.clear().await;
                return;
            }
        }
    }

    /// # Errors
    /// The last address that could not be given or taken; the others are still tried.
    async fn obey(&mut self, order: Order) -> Result<(), AddressError> {
        let mut failed = Ok(());
        for at in 0..self.addresses.len() {
            let (address, lent) = self.addresses[at];
            let result = match order {
                Order::Drop if lent.is_none() => Ok(None),
                Order::Drop => self.remove(address).await.map(|()| None),
                Order::Hold { from, at_most } => self.hold(address, lent, from, at_most).await,
            };
            match result {
                Ok(lent) => self.addresses[at].1 = lent,
                Err(error) => {
                    failed = Err(error);
                    // Gone and back under another index? What was lent there went with it.
                    let index = self.index;
                    if self.find_interface().await.is_ok() && self.index != index {
                        self.addresses.iter_mut().for_each(|(_, lent)| *lent = None);
                    }
                }
            }
        }
        failed
    }

    async fn hold(
        &self,
        address: IpAddr,
        mut lent: Option<Lent>,
        from: Moment,
        at_most: Millis,
    ) -> Result<Option<Lent>, AddressError> {
        // Twice at most: a pause between reading the clock and the kernel's answer makes the first one too long.
        for _ in 0..2 {
            let before = clock::now();
            match plan(lent, before.left_of(from, at_most), before) {
                Step::Leave => break,
                Step::Remove => {
                    self.remove(address).await?;
                    return Ok(None);
                }
                Step::Lend { seconds } => {
                    let mut request = self.handle.address().add(self.index, address, full_prefix(address)).replace();
                    limit(request.message_mut(), address, seconds);
                    request.execute().await.map_err(|error| self.error("cannot hold", address, error))?;
                    lent = Some(Lent { before, after: clock::now(), lifetime: Millis(u64::from(seconds) * 1_000) });
                }
            }
        }
        Ok(lent)
    }

    async fn remove(&self, address: IpAddr) -> Result<(), AddressError> {
        let mut message = AddressMessage::default();
        message.header.family = match address {
            IpAddr::V4(_) => netlink_packet_route::AddressFamily::Inet,
            IpAddr::V6(_) => netlink_packet_route::AddressFamily::Inet6,
        };
        message.header.prefix_len = full_prefix(address);
        message.header.index = self.index;
        message.attributes.push(AddressAttribute::Local(address));
        message.attributes.push(AddressAttribute::Address(address));
        match self.handle.address().del(message).execute().await {
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -EADDRNOTAVAIL => Ok(()),
            Err(error) => Err(self.error("cannot take away", address, error)),
            Ok(()) => Ok(()),
        }
    }

    fn error(&self, action: &'static str, address: IpAddr, error: rtnetlink::Error) -> AddressError {
        let denied = matches!(&error, rtnetlink::Error::NetlinkError(inner) if inner.raw_code() == -EPERM);
        let hint = if denied { "; the daemon needs CAP_NET_ADMIN" } else { "" };
        AddressError::Netlink { action, address, interface: self.interface.clone(), error, hint }
    }
}

const EADDRNOTAVAIL: i32 = nix::errno::Errno::EADDRNOTAVAIL as i32;
const EPERM: i32 = nix::errno::Errno::EPERM as i32;

fn full_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn limit(message: &mut AddressMessage, address: IpAddr, seconds: u32) {
    let mut cache = CacheInfo::default();
    cache.ifa_valid = seconds;
    cache.ifa_preferred = seconds;
    message.attributes.push(AddressAttribute::CacheInfo(cache));
    if address.is_ipv6() {
        // Duplicate address detection would leave the address unusable for a second or more, and finds nothing: it asks
        // the link, and a routed virtual address is never on the link.
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment { boottime_us: 1_000_000, monotonic_raw_us: 5_000_000 }.after(Millis(ms))
    }
    fn lent(at_ms: u64, lifetime: u64) -> Option<Lent> {
        Some(Lent { before: at(at_ms), after: at(at_ms), lifetime: Millis(lifetime) })
    }

    #[test]
    fn a_lifetime_ends_before_the_authority_does_even_when_the_kernel_is_late() {
        for left in 0..10_000 {
            let kernel_ends = u64::from(whole_seconds(Millis(left))) * 1_000;
            assert!(kernel_ends == 0 || kernel_ends + KERNEL_LATE.0 <= left, "{left}");
        }
        assert_eq!(whole_seconds(Millis(2_999)), 2);
        assert_eq!(whole_seconds(Millis(1_249)), 0);
    }

    #[test]
    fn an_extension_never_shortens_what_may_stay() {
        // Two seconds were lent at 0; at 0.8 s, 2.2 s of authority are left: one second would end earlier than now.
        assert_eq!(plan(lent(0, 2_000), Millis(2_200), at(800)), Step::Leave);
        assert_eq!(plan(lent(0, 2_000), Millis(2_300), at(800)), Step::Lend { seconds: 2 });
    }

    #[test]
    fn authority_that_shrank_shortens_or_removes() {
        assert_eq!(plan(lent(0, 5_000), Millis(2_400), at(100)), Step::Lend { seconds: 2 });
        assert_eq!(plan(lent(0, 5_000), Millis(900), at(100)), Step::Remove);
    }

    #[test]
    fn less_than_a_second_lends_nothing_new() {
        assert_eq!(plan(None, Millis(1_200), at(0)), Step::Leave);
        assert_eq!(plan(lent(0, 2_000), Millis(1_249), at(5_000)), Step::Leave);
        assert_eq!(plan(lent(0, 2_000), Millis(1_250), at(5_000)), Step::Lend { seconds: 1 });
    }

    #[test]
    fn a_pause_between_clock_and_kernel_is_repaired() {
        // The clock was read at 0, the kernel heard at 1.5 s: it would keep the address to 3.75 s; the deadline is 3 s.
        let late = Some(Lent { before: at(0), after: at(1_500), lifetime: Millis(2_000) });
        assert_eq!(plan(late, Millis(1_500), at(1_500)), Step::Lend { seconds: 1 });
    }
}
