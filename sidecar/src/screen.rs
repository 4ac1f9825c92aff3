//! One screen of a node's status: the answer first, what would happen now last.

pub mod volumes;

use serde_json::Value;
use std::fmt::Write as _;

/// Writes the screen for what the admin socket answered.
#[must_use]
pub fn render(status: &Value) -> String {
    if let Some(waiting) = status.pointer("/waiting") {
        let problem =
            waiting.pointer("/problem").and_then(Value::as_str).map_or(String::new(), |it| format!("\n  !! {it}"));
        let (cluster, node, what) = (text(status, "/cluster"), text(status, "/node"), text(waiting, "/what"));
        let since = age(number(waiting, "/for_ms"));
        return format!(
            "{cluster}   {node} has been waiting for {what} for {since}; nothing is started here before{problem}\n"
        );
    }
    let mut out = headline(status);
    out.push_str("\n\n");
    for (label, line) in rows(status) {
        let _ = writeln!(out, "  {label:<10} {line}");
    }
    let _ = writeln!(out, "\n{}", outlook(status));
    if let Some(last) = status.pointer("/decisions/0") {
        let _ = writeln!(out, "Last: {} ago, {}", age(number(last, "/ago_ms")), text(last, "/what"));
    }
    out
}

/// Whether nothing needs an operator: the exit code's question.
#[must_use]
pub fn is_well(status: &Value) -> bool {
    status.pointer("/waiting").is_none() && troubles(status).is_empty()
}

fn headline(status: &Value) -> String {
    let (cluster, node) = (text(status, "/cluster"), text(status, "/node"));
    let role = text(status, "/beliefs/role");
    let since = age(number(status, "/role_for_ms"));
    let epoch = number(status, "/beliefs/epoch");
    let holder = text(status, "/beliefs/row/holder/node");
    let what = match role {
        "active" => format!("SERVING on {node} for {since}, epoch {epoch}"),
        "standby" if row_problem(status).is_some() && !holder.is_empty() => {
            format!("served by {holder}, epoch {epoch}, when the lease was last read; {node} is standby for {since}")
        }
        "standby" if holder.is_empty() => format!("NOBODY SERVES; {node} is standby for {since}, epoch {epoch}"),
        "standby" => format!("served by {holder}, epoch {epoch}; {node} is standby for {since}"),
        "starting" => format!("{node} is starting for {since}: it has not read the lease yet"),
        role => format!("{node} is {role} for {since}, epoch {epoch}"),
    };
    let instance = text(status, "/me/instance");
    let troubles = troubles(status);
    let wrong = if troubles.is_empty() { String::new() } else { format!("\n  !! {}", troubles.join("\n  !! ")) };
    format!("{cluster}   {what}   ({instance})    in sync: {}{wrong}", in_sync(status).join(", "))
}

/// What is wrong, each with what to do.
fn troubles(status: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let role = text(status, "/beliefs/role");
    if number(status, "/core_silent_ms") > 2_000 {
        found.push(format!("the daemon's core hangs for {}; restart it", age(number(status, "/core_silent_ms"))));
    }
    if let Some(alone) = status.pointer("/unprotected_for_ms").and_then(Value::as_u64)
        && list(status, "/members").len() > 1
        && volumes::followers(status).is_empty()
    {
        found.push(format!("NOT PROTECTED: no standby in sync for {}; look at the other nodes", age(alone)));
    }
    if role == "fenced" {
        found.push(format!("{}; this machine must be rebooted", text(status, "/beliefs/why")));
    }
    if let Some(problem) = row_problem(status) {
        found.push(format!("{problem}; until that is mended nobody can take over, and what the lease says may be old"));
    }
    if let Some(problem) = status.pointer("/address/problem").and_then(Value::as_str) {
        found.push(problem.into());
    }
    if let Some(trouble) = status.pointer("/config_trouble").and_then(Value::as_str) {
        found.push(trouble.into());
    }
    for resource in list(status, "/resources") {
        if text(resource, "/state") == "failed" {
            found.push(format!("{} failed: {}", text(resource, "/name"), text(resource, "/problem")));
        }
    }
    found.extend(volumes::troubles(status));
    found
}

/// Why the lease is only known as it was.
fn row_problem(status: &Value) -> Option<&str> {
    status.pointer("/beliefs/row_problem").and_then(Value::as_str)
}

fn rows(status: &Value) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    if status.pointer("/holds").and_then(Value::as_bool) == Some(true) {
        let right = match text(status, "/beliefs/authority/kind") {
            "for" => format!("may serve {} longer unless extended", span(number(status, "/beliefs/authority/left_ms"))),
            "alone" => "nobody else can accept".into(),
            _ => "MAY NOT SERVE".into(),
        };
        let promises: Vec<String> = status
            .pointer("/beliefs/promises_left_ms")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(member, left)| format!("{} {}", name_of(status, member), span(left.as_u64().unwrap_or_default())))
            .collect();
        let promises =
            if promises.is_empty() { String::new() } else { format!("    promises: {}", promises.join(", ")) };
        rows.push((
            "lease".into(),
            format!("{} left, {right}{promises}", span(number(status, "/beliefs/lease_left_ms"))),
        ));
    } else {
        let seen = format!(
            "last sign of the holder {} ago; own promise {} left",
            span(number(status, "/beliefs/silence_ms")),
            span(number(status, "/beliefs/promise_left_ms"))
        );
        rows.push(("lease".into(), seen));
    }
    for peer in list(status, "/peers") {
        rows.push((text(peer, "/node").into(), peer_row(peer)));
    }
    for resource in list(status, "/resources") {
        let problem = text(resource, "/problem");
        let problem = if problem.is_empty() { String::new() } else { format!(": {problem}") };
        rows.push((text(resource, "/name").into(), format!("{}{problem}", text(resource, "/state"))));
    }
    rows.extend(volumes::rows(status));
    let addresses: Vec<&str> = list(status, "/address/addresses").iter().filter_map(Value::as_str).collect();
    if !addresses.is_empty() {
        let held = status.pointer("/address/held").and_then(Value::as_bool) == Some(true);
        let held = if held { "held" } else { "not held" };
        rows.push((
            "address".into(),
            format!("{} {held} on {}", addresses.join(", "), text(status, "/address/interface")),
        ));
    }
    rows.extend(ports_row(status));
    let (writes, reads) = (number(status, "/dynamodb/writes"), number(status, "/dynamodb/reads"));
    rows.push(("table".into(), format!("{writes} writes, {reads} reads since the start")));
    for (kind, label) in [("nominee", "nominee"), ("intent", "intent"), ("paused", "paused")] {
        if let Some(set) = status.pointer(&format!("/beliefs/row/{kind}")).filter(|set| set.is_object()) {
            let who = [text(set, "/node"), text(set, "/to")].concat();
            let who = if who.is_empty() { String::new() } else { format!("{who}, ") };
            let rule = text(set, "/rule");
            let rule = if rule.is_empty() { String::new() } else { format!("{rule}: ") };
            rows.push((label.into(), format!("{who}{rule}{}", text(set, "/reason"))));
        }
    }
    rows
}

fn ports_row(status: &Value) -> Option<(String, String)> {
    let ports = status.pointer("/ports").filter(|ports| ports.is_object())?;
    let is = |what: &str| ports.pointer(what).and_then(Value::as_bool) == Some(true);
    let service: Vec<String> = list(ports, "/service").iter().map(ToString::to_string).collect();
    let service = (!service.is_empty())
        .then(|| format!("{} {}", service.join(", "), if is("/open") { "open" } else { "refused" }));
    let health = ports.pointer("/health").and_then(Value::as_u64);
    let health =
        health.map(|port| format!("health checks on {port} {}", if is("/healthy") { "answered" } else { "refused" }));
    let problem = Some(text(ports, "/problem")).filter(|problem| !problem.is_empty()).map(str::to_owned);
    Some(("ports".into(), [service, health, problem].into_iter().flatten().collect::<Vec<_>>().join("; ")))
}

fn peer_row(peer: &Value) -> String {
    let up = |at: &str| peer.pointer(at).and_then(Value::as_u64);
    let link = match (up("/outgoing_up_ms"), up("/incoming_up_ms")) {
        (Some(outgoing), Some(incoming)) => format!("link up for {}", age(outgoing.min(incoming))),
        (Some(_), None) => "link up from here only".into(),
        (None, Some(_)) => "link up from there only".into(),
        (None, None) => "LINK DOWN".into(),
    };
    let heard = match peer.pointer("/hears/silent_ms").and_then(Value::as_u64) {
        Some(silent) => format!(", heard {} ago", span(silent)),
        None => ", not heard yet".into(),
    };
    let problem = text(peer, "/problem");
    let problem = if problem.is_empty() { String::new() } else { format!(" ({problem})") };
    format!("{link}{heard}    {}{problem}", text(peer, "/address"))
}

/// What would happen now.
fn outlook(status: &Value) -> String {
    let node = text(status, "/node");
    let about = |ms: u64| format!("about {:.0} s", (ms as f64 / 1_000.0).ceil());
    let wait = number(status, "/policy/wait_ms") + 500;
    if !text(status, "/beliefs/row/paused/reason").is_empty() {
        return "Paused: nothing is decided automatically. Resume with the failover function's action \"resume\"."
            .into();
    }
    if row_problem(status).is_some() {
        return if status.pointer("/holds").and_then(Value::as_bool) == Some(true) {
            format!("If {node} died now: no automatic failover before the lease can be read and written again.")
        } else {
            format!("If the holder died now: no takeover by {node} before the lease can be read and written again.")
        };
    }
    let in_sync = in_sync(status);
    if status.pointer("/holds").and_then(Value::as_bool) == Some(true) {
        let others: Vec<&str> = in_sync.iter().map(String::as_str).filter(|name| *name != node).collect();
        let followers = volumes::followers(status).join(" or ");
        return match lossy_limit(status) {
            _ if !others.is_empty() => {
                format!("If {node} died now: {} takes over in {}, nothing lost.", others.join(" or "), about(wait))
            }
            _ if followers.is_empty() => {
                format!("If {node} died now: no automatic failover. Bring a standby back in sync.")
            }
            Some(limit) => format!(
                "If {node} died now: {followers} takes over in {} if it is at most {limit} behind then; what it lacks is lost.",
                about(wait)
            ),
            None => format!(
                "If {node} died now: no automatic failover; {followers} follows asynchronously and takes over by force only, \
                 without what it lacks."
            ),
        };
    }
    let holder = text(status, "/beliefs/row/holder/node");
    match (holder.is_empty(), in_sync.iter().any(|name| name == node)) {
        (true, _) => format!("{node} waits to be nominated by the control plane."),
        (false, true) => format!("If {holder} died now: {node} may take over in {}, nothing lost.", about(wait)),
        (false, false) if !volumes::is_asynchronous(status) => {
            format!("If {holder} died now: {node} would NOT take over, it is not in sync.")
        }
        (false, false) => match lossy_limit(status) {
            Some(limit) => format!(
                "If {holder} died now: {node} may take over in {} if it is at most {limit} behind then; what it lacks is lost.",
                about(wait)
            ),
            None => format!(
                "If {holder} died now: {node} would NOT take over, it follows asynchronously: by force only, without what it lacks."
            ),
        },
    }
}

/// How far behind who takes over may be, where this epoch allows a loss at all.
fn lossy_limit(status: &Value) -> Option<String> {
    let allowed = status.pointer("/beliefs/row/lossy_ok").and_then(Value::as_bool) == Some(true);
    let limit = status.pointer("/policy/lossy_lag_limit_ms").and_then(Value::as_u64);
    limit.filter(|_| allowed).map(span)
}

/// Members in sync, by name where it is known.
fn in_sync(status: &Value) -> Vec<String> {
    list(status, "/beliefs/row/in_sync")
        .iter()
        .filter_map(Value::as_str)
        .map(|member| name_of(status, member))
        .collect()
}

fn name_of(status: &Value, incarnation: &str) -> String {
    if text(status, "/me/incarnation") == incarnation {
        return text(status, "/node").into();
    }
    let holder = status.pointer("/beliefs/row/holder").filter(|holder| text(holder, "/incarnation") == incarnation);
    let peer = || list(status, "/peers").iter().find(|peer| text(peer, "/incarnation") == incarnation);
    match holder.or_else(peer) {
        Some(found) => text(found, "/node").into(),
        None => format!("replica {}", &incarnation[..incarnation.len().min(8)]),
    }
}

fn list<'a>(value: &'a Value, at: &str) -> &'a [Value] {
    value.pointer(at).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, at: &str) -> &'a str {
    value.pointer(at).and_then(Value::as_str).unwrap_or_default()
}

fn number(value: &Value, at: &str) -> u64 {
    value.pointer(at).and_then(Value::as_u64).unwrap_or_default()
}

/// A short time, to a tenth of a second.
fn span(ms: u64) -> String {
    format!("{}.{} s", ms / 1_000, ms % 1_000 / 100)
}

/// A long time: hours, minutes and seconds.
fn age(ms: u64) -> String {
    let seconds = ms / 1_000;
    format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn active() -> Value {
        json!({
            "cluster": "web", "node": "a", "me": {"instance": "i-0a", "incarnation": "aaaa"}, "members": ["a", "b"],
            "policy": {"wait_ms": 3667}, "role_for_ms": 3_790_000, "holds": true, "core_silent_ms": 10,
            "beliefs": {
                "role": "active", "epoch": 8, "lease_left_ms": 2640, "authority": {"kind": "for", "left_ms": 2910},
                "promises_left_ms": {"bbbb": 2910}, "unanswered_write": false, "row_problem": null,
                "row": {"holder": {"node": "a", "incarnation": "aaaa"}, "in_sync": ["aaaa", "bbbb"]}
            },
            "peers": [{"node": "b", "incarnation": "bbbb", "address": "10.0.2.10:7400", "outgoing_up_ms": 65_000,
                       "incoming_up_ms": 70_000, "hears": {"silent_ms": 90}}],
            "resources": [{"name": "nginx", "state": "running"}],
            "address": {"addresses": ["10.99.0.10"], "interface": "lo", "held": true},
            "ports": {"service": [80, 5432], "health": 7402, "open": true, "healthy": false, "problem": null},
            "dynamodb": {"writes": 900, "reads": 12},
            "decisions": [{"ago_ms": 3_790_000, "epoch": 8, "what": "activating -> active"}]
        })
    }

    #[test]
    fn the_answer_comes_first_and_the_outlook_last() {
        let screen = render(&active());
        assert!(screen.starts_with("web   SERVING on a for 01:03:10, epoch 8   (i-0a)    in sync: a, b\n"), "{screen}");
        for part in [
            "2.6 s left",
            "promises: b 2.9 s",
            "link up for 00:01:05, heard 0.0 s ago",
            "nginx      running",
            "10.99.0.10 held on lo",
            "ports      80, 5432 open; health checks on 7402 refused",
        ] {
            assert!(screen.contains(part), "{part} in:\n{screen}");
        }
        assert!(
            screen.contains("If a died now: b takes over in about 5 s, nothing lost.\nLast: 01:03:10 ago"),
            "{screen}"
        );
        assert!(is_well(&active()));
    }

    #[test]
    fn what_is_wrong_stands_below_the_answer_with_what_to_do() {
        let mut status = active();
        status["unprotected_for_ms"] = json!(250_000);
        status["beliefs"]["row"]["in_sync"] = json!(["aaaa"]);
        status["peers"][0]["outgoing_up_ms"] = Value::Null;
        status["peers"][0]["incoming_up_ms"] = Value::Null;
        let screen = render(&status);
        assert!(screen.contains("!! NOT PROTECTED: no standby in sync for 00:04:10"), "{screen}");
        assert!(screen.contains("LINK DOWN"), "{screen}");
        assert!(screen.contains("If a died now: no automatic failover."), "{screen}");
        assert!(!is_well(&status));
    }

    #[test]
    fn a_standby_that_follows_asynchronously_is_no_failure_and_the_outlook_says_what_is_lost() {
        let mut status = active();
        status["unprotected_for_ms"] = json!(250_000);
        status["beliefs"]["row"]["in_sync"] = json!(["aaaa"]);
        let peer =
            json!({"incarnation": "bbbb", "state": "following", "follow": "async", "behind_bytes": 4096, "lag_ms": 80});
        status["volumes"] = json!({"leads": 8, "consistent": true, "follow": "async", "volumes": [], "peers": [peer]});
        let screen = render(&status);
        assert!(is_well(&status), "{screen}");
        assert!(
            screen.contains("whole, takes requests in epoch 8; b following (async), 4.0 KiB behind, 0.0 s"),
            "{screen}"
        );
        assert!(
            screen.contains("no automatic failover; b follows asynchronously and takes over by force only"),
            "{screen}"
        );
        status["policy"]["lossy_lag_limit_ms"] = json!(5_000);
        assert!(render(&status).contains("by force only"), "the epoch began without it");
        status["beliefs"]["row"]["lossy_ok"] = json!(true);
        let screen = render(&status);
        assert!(
            screen.contains("b takes over in about 5 s if it is at most 5.0 s behind then; what it lacks is lost"),
            "{screen}"
        );
        // The same on the other side.
        (status["node"], status["holds"]) = (json!("b"), json!(false));
        status["me"] = json!({"instance": "i-0b", "incarnation": "bbbb"});
        status["beliefs"]["role"] = json!("standby");
        assert!(render(&status).contains("If a died now: b may take over in about 5 s if it is at most 5.0 s behind"));
        status["beliefs"]["row"]["lossy_ok"] = json!(false);
        assert!(render(&status).contains("b would NOT take over, it follows asynchronously: by force only"));
        // Nobody follows: that is one.
        (status["node"], status["holds"]) = (json!("a"), json!(true));
        status["volumes"]["peers"][0]["state"] = json!("away");
        assert!(render(&status).contains("!! NOT PROTECTED"));
    }

    #[test]
    fn a_lease_that_cannot_be_read_is_a_trouble_and_promises_no_takeover() {
        let mut status = active();
        status["node"] = json!("b");
        status["holds"] = json!(false);
        status["beliefs"]["role"] = json!("standby");
        status["beliefs"]["row_problem"] = json!("cannot read the lease row: it has layout version 99");
        let screen = render(&status);
        assert!(screen.contains("served by a, epoch 8, when the lease was last read;"), "{screen}");
        assert!(
            screen.contains("!! cannot read the lease row: it has layout version 99; until that is mended"),
            "{screen}"
        );
        assert!(screen.contains("If the holder died now: no takeover by b before"), "{screen}");
        assert!(!is_well(&status));
    }

    #[test]
    fn a_node_that_waits_says_what_for_and_is_not_well() {
        let waiting = json!({"cluster": "web", "node": "a", "waiting":
            {"what": "instance metadata", "for_ms": 61_000, "problem": "169.254.169.254: no route to host"}});
        let screen = render(&waiting);
        assert!(
            screen.starts_with(
                "web   a has been waiting for instance metadata for 00:01:01; nothing is started here before\n  !! 169"
            ),
            "{screen}"
        );
        assert!(!is_well(&waiting));
    }

    #[test]
    fn a_standby_says_who_serves_and_what_it_would_do() {
        let mut status = active();
        status["node"] = json!("b");
        status["me"] = json!({"instance": "i-0b", "incarnation": "bbbb"});
        status["holds"] = json!(false);
        status["beliefs"]["role"] = json!("standby");
        let screen = render(&status);
        assert!(screen.starts_with("web   served by a, epoch 8; b is standby"), "{screen}");
        assert!(screen.contains("If a died now: b may take over in about 5 s"), "{screen}");
    }
}
