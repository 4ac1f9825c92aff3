//! What both halves of a session say of each other.

use super::state::{Frame, NODES, Peer, Primary, Role, Stage, Standing, State, Write, each, one};

pub(super) fn small(number: usize) -> u8 {
    u8::try_from(number).expect("few of each")
}

/// The stream of this primary's session with this peer, if both are in it.
pub(super) fn stream_to(state: &State, primary: usize, peer: usize) -> Option<&Standing> {
    state.in_session(primary, peer).then(|| state.nodes[peer].standing()).flatten()
}

/// Says the next thing in this peer's stream. Who is not in the session any more does not hear it.
pub(super) fn say(state: &mut State, at: usize, peer: usize, frame: Frame) {
    if state.in_session(at, peer)
        && let Role::Standby(Some(standing)) = &mut state.nodes[peer].role
    {
        standing.stream.push(frame);
    }
}

/// The next block of a resync: compared and different, or marked and not under way.
pub(super) fn next_block(marks: u8, peer: &Peer) -> Option<usize> {
    each(peer.to_copy).next().or_else(|| each(marks & !peer.under_way).next())
}

pub(super) fn companions(primary: &Primary, of: usize) -> u8 {
    let others = (0..NODES).filter(|node| *node != of && primary.peers[*node].stage == Stage::InSync);
    others.fold(0, |set, node| set | one(node))
}

/// Writes that somebody may lose.
pub(super) fn kept(primary: &Primary) -> u8 {
    primary.ops.iter().enumerate().filter(|(_, op)| op.kept).fold(0, |set, (number, _)| set | one(number))
}

pub(super) fn no_elders(primary: &Primary, peer: usize) -> bool {
    primary.peers[peer].elders & kept(primary) == 0
}

/// Of what a standby claims, the writes and copies that are durable everywhere.
pub(super) fn settled(primary: &Primary, standing: &Standing, peer: usize) -> (u8, u8) {
    if !no_elders(primary, peer) {
        return (0, 0);
    }
    let under_way = primary.peers[peer].under_way;
    (standing.writes & !kept(primary), standing.copies & !under_way)
}

/// The blocks that a standby has changed and claims.
pub(super) fn unsettled(standing: &Standing, writes: &[Write]) -> u8 {
    standing.copies | each(standing.writes).fold(0, |set, number| set | one(writes[number].block.into()))
}

/// What keeps an extent in the log.
pub(super) fn claims(state: &State, at: usize) -> u8 {
    match &state.nodes[at].role {
        Role::Leading(primary) => state.blocks_of(kept(primary)),
        Role::Standby(Some(standing)) => unsettled(standing, &state.writes),
        Role::Standby(None) => 0,
    }
}
