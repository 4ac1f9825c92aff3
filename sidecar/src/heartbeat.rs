//! The heartbeat items: this node's own, written on time and by itself; the peers', read when a link to them fails.

use crate::clock;
use crate::once::Once;
use crate::peers::pins::{Pin, Pins};
use crate::peers::{Allowance, Look};
use crate::state_dir::StateDir;
use lease::config::Member;
use lease::heartbeat::Heartbeat;
use lease::ids::{ClusterId, NodeId};
use lease::table::Table;
use lease::time::{Millis, Moment};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::MissedTickBehavior;

const PINS_FILE: &str = "peers.json";
/// What the core last said counts as its word for this long. A core that hangs must not look alive from outside.
const STALE: Millis = Millis(2_000);

/// How long it takes a core that is alive to say something after a pause.
const CATCH_UP: Millis = Millis(500);

/// What the core says of this node, and when it said so.
#[derive(Clone, Debug)]
pub struct Said {
    pub heartbeat: Heartbeat,
    pub at: Moment,
}

/// Writes this node's heartbeat every `every`, and at once when asked to.
pub async fn write(
    table: Table,
    every: Millis,
    said: watch::Receiver<Said>,
    now_please: Arc<Notify>,
    turned_ms: Arc<AtomicU64>,
) -> std::convert::Infallible {
    let mut turns = tokio::time::interval(every.into());
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = Once::default();
    let mut seq = 0;
    loop {
        tokio::select! {
            _ = turns.tick() => {}
            () = now_please.notified() => turns.reset(),
        }
        turned_ms.store(clock::now().boottime_us / 1_000, Ordering::Relaxed);
        let is_stale = |said: &Said| clock::now().longest_since(said.at) > STALE;
        if is_stale(&said.borrow()) {
            // After a pause of the whole process this task may be the first to run.
            tokio::time::sleep(CATCH_UP.into()).await;
        }
        let Said { heartbeat, at } = said.borrow().clone();
        if clock::now().longest_since(at) > STALE {
            if told.is_new("the core", clock::now()) {
                tracing::error!(limit = %STALE, "the core has said nothing for too long: no heartbeat is written");
            }
            continue;
        }
        if seq == 0 {
            seq = first_seq(&table, &heartbeat.cluster, &heartbeat.node).await;
        }
        seq += 1;
        match table.write_heartbeat(&heartbeat.cluster, &heartbeat.node, seq, &heartbeat).await {
            Ok(()) => told.forget(),
            Err(error) => {
                if told.is_new(&error.to_string(), clock::now()) {
                    tracing::warn!(%error, "heartbeat not written");
                }
            }
        }
    }
}

/// Readers tell life by the number's movement; it goes on from where the process before left off. Where that cannot be
/// read, boot time in milliseconds is higher than any count of heartbeats could be.
async fn first_seq(table: &Table, cluster: &ClusterId, node: &NodeId) -> u64 {
    match table.read_heartbeat(cluster, node).await {
        Ok(Some((seq, _))) => seq,
        Ok(None) => 0,
        Err(_) => clock::now().boottime_us / 1_000,
    }
}

/// Reads peers' heartbeats when a look is asked for and the allowance permits, and keeps the pins for the next start.
pub async fn look_at_peers(
    table: Table,
    cluster: ClusterId,
    peers: Vec<Member>,
    pins: Arc<Pins>,
    state: Arc<StateDir>,
    mut looks: mpsc::Receiver<Look>,
) -> std::convert::Infallible {
    let mut allowances: BTreeMap<NodeId, Allowance> =
        peers.iter().map(|peer| (peer.name.clone(), Allowance::new(clock::now()))).collect();
    let mut told = Once::default();
    while let Some(look) = looks.recv().await {
        for peer in &peers {
            let for_key = match &look {
                Look::Unreachable(node) if *node != peer.name => continue,
                Look::Unreachable(_) => false,
                Look::UnknownKey => true,
            };
            let allowed = allowances.get_mut(&peer.name).is_some_and(|allowance| allowance.take(for_key, clock::now()));
            if !allowed {
                continue;
            }
            let problem = match table.read_heartbeat(&cluster, &peer.name).await {
                Ok(None) => continue,
                Ok(Some((_, heartbeat))) => match pins.learn(&heartbeat, &peer.instance) {
                    Ok(false) => continue,
                    Ok(true) => {
                        let (state, all) = (Arc::clone(&state), pins.all());
                        // Durable writes take as long as the disk does, and heartbeats share this thread.
                        let kept = tokio::task::spawn_blocking(move || state.write_json(PINS_FILE, &all)).await;
                        tracing::info!(peer = %peer.name, address = heartbeat.peer_address, "peer's address and key learnt");
                        match kept {
                            Ok(Ok(())) => continue,
                            Ok(Err(error)) => error.to_string(),
                            Err(error) => error.to_string(),
                        }
                    }
                    Err(error) => error.to_string(),
                },
                Err(error) => error.to_string(),
            };
            if told.is_new(&format!("{}: {problem}", peer.name), clock::now()) {
                tracing::warn!(peer = %peer.name, problem, "peer's heartbeat");
            }
        }
    }
    // All connections are gone, and with them the process.
    std::future::pending().await
}

/// The pins of the last run, so that peers know each other also while the table does not answer. Only of members that
/// are still who they were.
#[must_use]
pub fn kept_pins(state: &StateDir, peers: &[Member]) -> BTreeMap<NodeId, Pin> {
    let kept = state.read_json::<BTreeMap<NodeId, Pin>>(PINS_FILE).unwrap_or_else(|error| {
        tracing::warn!(%error, "the pins that were kept cannot be read; they come with the peers' next heartbeats");
        None
    });
    let is_member =
        |node: &NodeId, pin: &Pin| peers.iter().any(|peer| peer.name == *node && peer.instance == pin.instance);
    kept.unwrap_or_default().into_iter().filter(|(node, pin)| is_member(node, pin)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_dir::tests::Scratch;
    use lease::ids::InstanceId;

    #[test]
    fn only_pins_of_todays_members_are_taken_up() {
        let scratch = Scratch::new();
        let state = StateDir::open(scratch.path()).expect("open");
        let pin = |instance: &str| Pin {
            instance: InstanceId::new(instance).expect("an id"),
            address: "10.0.1.10:7400".parse().expect("an address"),
            fingerprint: "f".into(),
        };
        let name = |name: &str| NodeId::new(name).expect("a name");
        let kept = BTreeMap::from([(name("b"), pin("i-0b")), (name("c"), pin("i-0c")), (name("d"), pin("i-0d"))]);
        state.write_json(PINS_FILE, &kept).expect("written");
        let member = |node: &str, instance: &str| Member {
            name: name(node),
            instance: InstanceId::new(instance).expect("an id"),
            priority: 1,
        };
        let found = kept_pins(&state, &[member("b", "i-0b"), member("c", "i-0new")]);
        assert_eq!(found, BTreeMap::from([(name("b"), pin("i-0b"))]));
    }
}
