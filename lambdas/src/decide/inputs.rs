//! What a decision rested on, as it is recorded with it.

use super::{Hint, Observation};
use serde_json::{Map, Value, json};

/// The observation in short: enough to decide again on paper.
#[must_use]
pub fn inputs(seen: &Observation) -> Value {
    let mut all = Map::new();
    all.insert("hint".into(), hint(&seen.hint));
    all.insert(
        "row".into(),
        seen.row.as_ref().map_or(Value::Null, |row| {
            json!({
                "rev": row.rev, "epoch": row.epoch, "beat": row.beat, "activated": row.activated,
                "holder": row.holder.as_ref().map(|holder| &holder.node),
                "in_sync": row.in_sync,
                "nominee": row.live_nominee().map(|nominee| &nominee.node),
                "intent": row.intent.as_ref().map(|intent| &intent.to),
                "paused": row.paused.is_some(),
            })
        }),
    );
    let holder = seen.row.as_ref().and_then(|row| row.holder.as_ref()).map(|holder| &holder.node);
    if let Some(heartbeats) = &seen.heartbeats {
        let told = heartbeats.iter().map(|(node, sighting)| {
            let heartbeat = &sighting.heartbeat;
            let hears = holder.and_then(|holder| heartbeat.hears.get(holder)).map(|hearing| hearing.linked);
            let value = json!({
                "seq": sighting.seq, "advanced": sighting.advanced, "role": heartbeat.role,
                "instance": heartbeat.instance, "incarnation": heartbeat.incarnation,
                "epoch": heartbeat.epoch, "beat": heartbeat.beat, "hears_holder": hears,
            });
            (node.to_string(), value)
        });
        all.insert("heartbeats".into(), Value::Object(told.collect()));
    }
    if let Some(instances) = &seen.instances {
        let told = instances.iter().map(|(id, described)| {
            (id.to_string(), json!({ "state": described.state, "launched": described.launched }))
        });
        all.insert("instances".into(), Value::Object(told.collect()));
    }
    if let Some(moves) = seen.row_moves {
        all.insert("row_moves".into(), moves.into());
    }
    if !seen.gave_up_on.is_empty() {
        all.insert("gave_up_on".into(), json!(seen.gave_up_on));
    }
    Value::Object(all)
}

fn hint(hint: &Hint) -> Value {
    match hint {
        Hint::Suspected { node, epoch, beat, silent_ms, hears } => json!({
            "kind": "suspected", "node": node, "epoch": epoch, "beat": beat, "silent_ms": silent_ms, "hears": hears,
        }),
        Hint::StoodStill { epoch, beat } => json!({ "kind": "stood still", "epoch": epoch, "beat": beat }),
        Hint::InstanceState { instance, state } => {
            json!({ "kind": "instance state", "instance": instance, "state": state })
        }
        Hint::Interruption { instance, action } => {
            json!({ "kind": "interruption", "instance": instance, "action": action })
        }
        Hint::Maintenance { instance, what, starts } => {
            json!({ "kind": "maintenance", "instance": instance, "what": what, "starts": starts })
        }
        Hint::ResourceFailed { node, epoch, resource, reason } => json!({
            "kind": "resource failed", "node": node, "epoch": epoch, "resource": resource, "reason": reason,
        }),
        Hint::Relief { node, epoch, reason } => {
            json!({ "kind": "relief", "node": node, "epoch": epoch, "reason": reason })
        }
        Hint::Released { node, epoch, reason } => {
            json!({ "kind": "released", "node": node, "epoch": epoch, "reason": reason })
        }
        Hint::Joined { node } => json!({ "kind": "joined", "node": node }),
        Hint::Look => json!({ "kind": "look" }),
        Hint::Switchover { to, reason } => json!({ "kind": "switchover", "to": to, "reason": reason }),
        Hint::Force { to, accept_data_loss, force_stop, reason } => json!({
            "kind": "failover", "to": to, "accept_data_loss": accept_data_loss, "force_stop": force_stop, "reason": reason,
        }),
    }
}
