//! Standbys that follow asynchronously: what is said of them where nobody is nominated. They are never in sync, by design, and an operator
//! who reads that nobody is must see whether that is a failure or the configuration.

use super::candidates::{Candidate, Life};
use super::{Observation, rules};
use lease::record::Row;

/// One that could be opened, with a loss.
fn usable(candidate: &&Candidate<'_>) -> bool {
    candidate.is_asynchronous() && candidate.whole() && candidate.life != Life::Dead
}

/// Of each of them why it does not take over by itself; empty where there is none.
pub(super) fn told(all: &[Candidate<'_>], seen: &Observation, row: &Row) -> String {
    let told = all.iter().filter(|candidate| candidate.is_asynchronous() && !candidate.in_sync).map(|candidate| {
        let node = candidate.node();
        format!(
            "; {node} has [volumes] follow = \"async\" and is never in sync, by design: {}",
            hindrance(candidate, seen, row)
        )
    });
    told.collect()
}

fn hindrance(candidate: &Candidate<'_>, seen: &Observation, row: &Row) -> String {
    let lag = candidate.heartbeat.replica.lag_ms;
    if candidate.life == Life::Dead {
        return "and it is not alive".into();
    }
    if !candidate.whole() {
        return "and its data is not a whole image: a copy to it had begun, and nothing could be opened".into();
    }
    let lags =
        lag.map_or("it does not know how far it is behind".into(), |lag| format!("it is {lag} behind at the most"));
    let Some(limit) = seen.config.policy.lossy_lag_limit_ms else {
        return format!("{lags}, and without lossy_lag_limit_ms no write is ever given up automatically");
    };
    if let Err(bad) = seen.config.policy.check_lag_limit() {
        return format!("{lags}, and policy.{bad}");
    }
    if !row.lossy_ok {
        return format!(
            "{lags}, and lossy_lag_limit_ms was set after epoch {} had begun, which does not allow a loss",
            row.epoch
        );
    }
    match lag {
        Some(lag) if lag <= limit && candidate.hears_holder => format!("{lags}, and it still hears the holder"),
        Some(lag) if lag <= limit => lags,
        _ => format!("{lags}, and lossy_lag_limit_ms allows {limit}"),
    }
}

/// What makes a move to one of them lose nothing.
pub(super) const MAKE_SYNC: &str = "set [volumes] follow = \"sync\" in the standby's node.toml, restart its daemon, and ask again once \
                                    status says that it is in sync; the holder goes on until then";

/// Of one of them how far it is behind, for who thinks of moving to it; empty for any other.
pub(super) fn lag_told(candidate: &Candidate<'_>) -> String {
    if !candidate.is_asynchronous() || candidate.in_sync {
        return String::new();
    }
    let lag = candidate.heartbeat.replica.lag_ms;
    let lag =
        lag.map_or("by how much it is behind it does not know".into(), |lag| format!("it is {lag} behind at the most"));
    format!("; it follows asynchronously ([volumes] follow = \"async\"), and {lag}")
}

/// What an operator can do where nobody in sync is left.
pub(super) fn way_out(all: &[Candidate<'_>], seen: &Observation, row: &Row) -> String {
    let Some(best) = all.iter().find(usable) else { return rules::FORCE.into() };
    let back = match &row.holder {
        Some(holder) => format!("bring {} back, which loses nothing", holder.node),
        None => format!("bring one that is in sync back ({}), which loses nothing", rules::members_told(row)),
    };
    let node = best.node();
    let automatic = match seen.config.policy.lossy_lag_limit_ms {
        Some(_) => String::new(),
        None => format!(
            "; with lossy_lag_limit_ms in the cluster's policy {node} takes over by itself from then on, up to such a lag"
        ),
    };
    format!(
        "{back}; or, giving up the writes that {node} lacks, invoke \
         {{\"action\":\"failover\",\"to\":\"{node}\",\"accept_data_loss\":true}}{automatic}"
    )
}
