//! A verification, as people are shown it.

use serde_json::Value;
use std::fmt::Write as _;

/// Differences that are shown; `--json` has more.
const SHOWN: usize = 8;

/// Its lines; `name` gives a replica's node.
#[must_use]
pub fn lines(verification: &Value, name: impl Fn(&str) -> String) -> Vec<String> {
    let volumes = list(verification, "volumes").iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ");
    let total = number(verification, "total_bytes");
    let when = match verification["ended_ms_ago"].as_u64() {
        None => format!(
            "at {}/s, since {}",
            bytes(number(verification, "bytes_s")),
            age(number(verification, "began_ms_ago"))
        ),
        Some(ago) => format!("ended {} ago", age(ago)),
    };
    let mut lines = vec![format!("verification of {volumes} ({}): {when}", bytes(total))];
    for peer in list(verification, "peers") {
        let (compared, differing) = (number(peer, "compared_bytes"), number(peer, "differing_chunks"));
        let share = u128::from(compared) * 1_000 / u128::from(total.max(1));
        let found = if differing == 0 { "all the same".to_owned() } else { format!("{differing} chunks DIFFER") };
        let extent = text(peer, "extent");
        let name = name(text(peer, "incarnation"));
        lines.push(format!("  {name}: {extent}, {}.{} % compared, {found}", share / 10, share % 10));
    }
    let unreadable = number(verification, "unreadable_chunks");
    if unreadable > 0 {
        lines.push(format!(
            "  {unreadable} chunks could not be read here and were compared with nobody: replace this disk"
        ));
    }
    let differences = list(verification, "differences");
    for difference in differences.iter().take(SHOWN) {
        let (volume, offset) = (text(difference, "volume"), number(difference, "offset"));
        let there = difference["there"].as_str().unwrap_or("unreadable");
        let mut line = format!("  {volume} at {offset}, {} bytes: ", number(difference, "bytes"));
        let name = name(text(difference, "incarnation"));
        let _ = write!(line, "here {}, on {name} {}", short(text(difference, "here")), short(there));
        lines.push(line);
    }
    if differences.len() > SHOWN {
        lines.push(format!("  and {} more (--json)", differences.len() - SHOWN));
    }
    lines
}

fn list<'v>(value: &'v Value, at: &str) -> &'v [Value] {
    value[at].as_array().map_or(&[], Vec::as_slice)
}

fn number(value: &Value, at: &str) -> u64 {
    value[at].as_u64().unwrap_or_default()
}

fn text<'v>(value: &'v Value, at: &str) -> &'v str {
    value[at].as_str().unwrap_or_default()
}

/// Enough of a hash to tell two apart by eye; `--json` and the log have all of it.
fn short(hash: &str) -> &str {
    hash.get(..16).unwrap_or(hash)
}

/// As hours, minutes and seconds.
fn age(ms: u64) -> String {
    let seconds = ms / 1_000;
    format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

/// In the largest unit of which there is one.
#[must_use]
pub fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = ((64 - count.leading_zeros()).saturating_sub(1) / 10).min(4) as usize;
    let tenths = (u128::from(count) * 10) >> (10 * unit);
    match unit {
        0 => format!("{count} B"),
        _ => format!("{}.{} {}", tenths / 10, tenths % 10, units[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_compared_and_what_differs_is_told() {
        let mut verification = json!({
            "volumes": ["data", "log"], "total_bytes": 4_u64 << 20, "bytes_s": 32_u64 << 20, "began_ms_ago": 61_000,
            "ended_ms_ago": null, "unreadable_chunks": 0,
            "peers": [{"incarnation": "r1", "compared_bytes": 1 << 20, "differing_chunks": 0, "extent": "under way"}],
            "differences": []
        });
        let name = |incarnation: &str| format!("node of {incarnation}");
        assert_eq!(
            lines(&verification, name),
            [
                "verification of data, log (4.0 MiB): at 32.0 MiB/s, since 00:01:01",
                "  node of r1: under way, 25.0 % compared, all the same",
            ]
        );
        verification["ended_ms_ago"] = json!(5_000);
        verification["unreadable_chunks"] = json!(2);
        verification["peers"][0] =
            json!({"incarnation": "r1", "compared_bytes": 4 << 20, "differing_chunks": 9, "extent": "whole"});
        let difference = json!({"volume": "log", "offset": 65_536, "bytes": 65_536, "incarnation": "r1",
            "here": "0123456789abcdef00", "there": null});
        verification["differences"] = vec![difference; 9].into();
        let told = lines(&verification, name);
        assert_eq!(told.len(), 12, "{told:#?}");
        assert_eq!(told[1], "  node of r1: whole, 100.0 % compared, 9 chunks DIFFER");
        assert!(told[2].contains("2 chunks could not be read here"), "{told:#?}");
        assert_eq!(told[3], "  log at 65536, 65536 bytes: here 0123456789abcdef, on node of r1 unreadable");
        assert_eq!(told[11], "  and 1 more (--json)");
    }

    #[test]
    fn sizes_are_told_in_their_own_unit() {
        let told = [0, 1_023, 1_024, 65_536, 1 << 30, 3 << 40, u64::MAX].map(bytes);
        assert_eq!(told, ["0 B", "1023 B", "1.0 KiB", "64.0 KiB", "1.0 GiB", "3.0 TiB", "16777215.9 TiB"]);
    }
}
