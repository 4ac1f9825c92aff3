//! The volumes, as people are shown them: a line of the node's screen, or a page of their own.

use super::{list, name_of, number, text};
use serde_json::Value;
use std::fmt::Write as _;
use volume::operate::show::{self, bytes};

/// Characters of a full bar.
const BAR: usize = 30;

/// The page of `leasehold volume status`.
#[must_use]
pub fn page(status: &Value) -> String {
    if status.pointer("/waiting").is_some() {
        return super::render(status);
    }
    let Some(volumes) = volumes(status) else {
        return format!("{} has no volumes: its configuration names none\n", text(status, "/node"));
    };
    let mut out = String::new();
    for volume in list(volumes, "/volumes") {
        let _ = writeln!(out, "{}   {}", text(volume, "/name"), bytes(number(volume, "/bytes")));
    }
    let _ = writeln!(out, "  {:<10} {}", text(status, "/node"), here(volumes));
    for peer in list(volumes, "/peers") {
        let bar = if text(peer, "/state") == "copying" { format!("{}  ", bar(volumes, peer)) } else { String::new() };
        let name = name_of(status, text(peer, "/incarnation"));
        let _ = writeln!(out, "  {name:<10} {bar}{}", there(peer));
    }
    if let Some(verification) = volumes.get("verification").filter(|verification| verification.is_object()) {
        for line in show::lines(verification, |incarnation| name_of(status, incarnation)) {
            let _ = writeln!(out, "{line}");
        }
    }
    for trouble in troubles(status) {
        let _ = writeln!(out, "  !! {trouble}");
    }
    out
}

/// The lines of the node's screen.
pub(super) fn rows(status: &Value) -> Vec<(String, String)> {
    let Some(volumes) = volumes(status) else { return Vec::new() };
    let peers = list(volumes, "/peers").iter().map(|peer| {
        let name = name_of(status, text(peer, "/incarnation"));
        format!("; {name} {}", there(peer))
    });
    vec![("volumes".into(), format!("{}{}", here(volumes), peers.collect::<String>()))]
}

/// Whether this node's replica follows asynchronously: never in sync, by its configuration.
pub(super) fn is_asynchronous(status: &Value) -> bool {
    volumes(status).is_some_and(|volumes| text(volumes, "/follow") == "async")
}

/// The nodes that follow this one asynchronously, as they are to.
pub(super) fn followers(status: &Value) -> Vec<String> {
    let peers = volumes(status).map_or(&[][..], |volumes| list(volumes, "/peers"));
    let follows = |peer: &&Value| text(peer, "/state") == "following";
    peers.iter().filter(follows).map(|peer| name_of(status, text(peer, "/incarnation"))).collect()
}

/// What is wrong, each with what to do.
pub(super) fn troubles(status: &Value) -> Vec<String> {
    let Some(volumes) = volumes(status) else { return Vec::new() };
    let is = |at: &str| volumes.pointer(at).and_then(Value::as_bool) == Some(true);
    let mut found = Vec::new();
    if is("/failed") {
        found.push("the volumes' disk failed or stands still: replace it, and create its replica anew".into());
    }
    if is("/stranger") {
        found.push(
            "the volumes' data is another cluster's: create the replica anew, or correct the configuration".into(),
        );
    }
    for peer in list(volumes, "/peers").iter().filter(|peer| text(peer, "/state") == "diverged") {
        let name = name_of(status, text(peer, "/incarnation"));
        found.push(format!(
            "{name} and this node both hold writes that the other never had, and both are kept: decide which one counts. If it is this one, stop \
             {name}'s daemon and run `leasehold volume discard` there, which copies aside what is given up; if it is {name}'s, fail over to it \
             by force"
        ));
    }
    for peer in list(volumes, "/peers").iter().filter(|peer| text(peer, "/state") == "differs") {
        let name = name_of(status, text(peer, "/incarnation"));
        found.push(format!(
            "{name} and this node differ where they must be the same: {name} is not failed over to. Decide which one is right; \
             `leasehold volume resync {name}` copies this node's over it"
        ));
    }
    let served = number(volumes, "/reads_served_by_peers");
    if served > 0 {
        found.push(format!(
            "this node's disk failed {served} reads since its daemon began: a peer served them; replace the disk if there are more"
        ));
    }
    let failed = number(volumes, "/reads_failed");
    if failed > 0 {
        found.push(format!(
            "{failed} reads failed here, and no peer in step could serve them: replace this node's disk"
        ));
    }
    found
}

fn volumes(status: &Value) -> Option<&Value> {
    status.pointer("/volumes").filter(|volumes| volumes.is_object())
}

fn here(volumes: &Value) -> String {
    let is = |at: &str| volumes.pointer(at).and_then(Value::as_bool) == Some(true);
    let image = match (is("/consistent"), is("/undo_log")) {
        (true, _) => "whole",
        (false, true) => "INCOMPLETE (the image of before the resync is kept)",
        (false, false) => "INCOMPLETE",
    };
    match (number(volumes, "/leads"), is("/follows")) {
        (0, _) if text(volumes, "/follow") == "async" => {
            let whom = if is("/follows") { "the holder" } else { "nobody" };
            let lag = volumes.pointer("/lag_ms").and_then(Value::as_u64);
            let lag = lag.map_or("by how much is unknown".into(), |lag| format!("{} at the most", behind_s(lag)));
            format!("{image}, follows {whom} (async), behind: {lag}")
        }
        (0, true) => format!("{image}, follows the holder"),
        (0, false) => format!("{image}, follows nobody"),
        (epoch, _) => format!("{image}, takes requests in epoch {epoch}"),
    }
}

fn there(peer: &Value) -> String {
    let (state, behind) = (text(peer, "/state"), number(peer, "/behind_bytes"));
    if text(peer, "/follow") == "async" && state != "copying" {
        let lag = peer["lag_ms"].as_u64().map_or("for how long is unknown".into(), behind_s);
        return format!("{state} (async), {} behind, {lag}", bytes(behind));
    }
    if behind == 0 || state == "in step" {
        return state.into();
    }
    let rate = number(peer, "/copied_bytes_s");
    let end = match behind.checked_div(rate) {
        Some(seconds) if state == "copying" => {
            let held = number(peer, "/held_to_bytes_s");
            let held = if held == 0 { String::new() } else { format!(" (held to {}/s)", bytes(held)) };
            format!(", {}/s{held}, {} left", bytes(rate), super::age(seconds * 1_000))
        }
        _ => String::new(),
    };
    format!("{state}, {} behind{end}", bytes(behind))
}

/// How far behind, in seconds.
fn behind_s(lag_ms: u64) -> String {
    format!("{}.{} s", lag_ms / 1_000, lag_ms / 100 % 10)
}

/// How much of everything it has.
fn bar(volumes: &Value, peer: &Value) -> String {
    let all: u64 = list(volumes, "/volumes").iter().map(|volume| number(volume, "/bytes")).sum();
    let had = u128::from(all.saturating_sub(number(peer, "/behind_bytes")));
    let share = had * 1_000 / u128::from(all.max(1));
    let full = usize::try_from(share).unwrap_or(1_000) * BAR / 1_000;
    format!("[{}{}] {}.{} %", "#".repeat(full), ".".repeat(BAR - full), share / 10, share % 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(peer: &Value) -> Value {
        json!({
            "node": "a", "me": {"incarnation": "aaaa"}, "peers": [{"node": "b", "incarnation": "bbbb"}],
            "volumes": {
                "leads": 7, "consistent": true, "follows": false, "failed": false, "stranger": false,
                "volumes": [{"name": "data", "bytes": 8_u64 << 30}],
                "peers": [peer]
            }
        })
    }

    #[test]
    fn a_copy_under_way_shows_how_far_it_is_and_when_it_ends() {
        let copying =
            json!({"incarnation": "bbbb", "state": "copying", "behind_bytes": 2_u64 << 30, "copied_bytes_s": 64 << 20});
        let page = page(&status(&copying));
        assert_eq!(
            page,
            "data   8.0 GiB\n  a          whole, takes requests in epoch 7\n  \
             b          [######################........] 75.0 %  copying, 2.0 GiB behind, 64.0 MiB/s, 00:00:32 left\n"
        );
    }

    #[test]
    fn what_is_in_step_is_one_line_and_a_split_is_a_trouble() {
        let peer = |state| {
            status(&json!({"incarnation": "bbbb", "state": state, "behind_bytes": 65_536, "copied_bytes_s": null}))
        };
        assert_eq!(rows(&peer("in step"))[0].1, "whole, takes requests in epoch 7; b in step");
        assert_eq!(rows(&peer("away"))[0].1, "whole, takes requests in epoch 7; b away, 64.0 KiB behind");
        assert!(troubles(&peer("away")).is_empty());
        assert!(troubles(&peer("diverged"))[0].starts_with("b and this node both hold"));
        assert!(page(&peer("diverged")).contains("!! b and this node"));
    }

    #[test]
    fn whoever_has_none_is_told_so() {
        assert_eq!(page(&json!({"node": "a", "volumes": null})), "a has no volumes: its configuration names none\n");
    }

    #[test]
    fn a_verification_is_shown_and_a_copy_that_differs_is_a_trouble() {
        let mut status =
            status(&json!({"incarnation": "bbbb", "state": "differs", "behind_bytes": 65_536, "copied_bytes_s": null}));
        status["volumes"]["verification"] = json!({
            "volumes": ["data"], "total_bytes": 8_u64 << 30, "ended_ms_ago": 1_000,
            "peers": [{"incarnation": "bbbb", "compared_bytes": 8_u64 << 30, "differing_chunks": 1, "extent": "whole"}],
        });
        status["volumes"]["reads_failed"] = json!(3);
        let page = page(&status);
        assert!(page.contains("\n  b: whole, 100.0 % compared, 1 chunks DIFFER\n"), "{page}");
        assert!(page.contains("!! b and this node differ where they must be the same"), "{page}");
        assert!(page.contains("leasehold volume resync b"), "{page}");
        assert!(page.contains("!! 3 reads failed"), "{page}");
    }
}
