//! What the figures look like: lines for people, one line of JSON for programs.

use crate::runner::{Killed, Mutant, Report};
use serde_json::{Value, json};

/// One line for a model, and one for each check that it reached or did not.
pub fn model_lines(report: &Report) -> Vec<String> {
    let mut lines = vec![format!(
        "{}  {}: {} states, {} generated, depth {}, {:.1} s, {}",
        report.model,
        report.what,
        grouped(report.states),
        grouped(report.generated),
        report.depth,
        report.seconds,
        if report.complete { "complete" } else { "NOT COMPLETE" },
    )];
    for (name, reached) in &report.reached {
        lines.push(format!("      {} {name}", if *reached { "reached:" } else { "NEVER REACHED:" }));
    }
    if let Some(violation) = &report.violation {
        lines.push(format!("      VIOLATED: {}", violation.property));
        lines.extend(trace_lines(&violation.trace));
    }
    lines
}

/// One line for a mutant.
pub fn mutant_line(mutant: &Mutant, killed: Option<&Killed>) -> String {
    let trap = if mutant.trap == 0 { "guard  ".into() } else { format!("trap {:<2}", mutant.trap) };
    let who = format!("{}  {trap}  {}: {}", mutant.model, mutant.name, mutant.left_out);
    match killed {
        Some(killed) => {
            let sound = match killed.sound {
                (states, None) => format!("the whole rules hold to that depth ({} states)", grouped(states)),
                (_, Some(property)) => format!("SO DO THE WHOLE RULES: {property}"),
            };
            let late = if killed.counts() || killed.sound.1.is_some() { "" } else { " TOO LATE" };
            format!(
                "{who} -> {} falls in {} steps, {} states, {:.1} s{late}; {sound}",
                killed.property,
                killed.steps,
                grouped(killed.states),
                killed.seconds
            )
        }
        None => format!("{who} -> SURVIVES"),
    }
}

/// A trace, one numbered line a step.
pub fn trace_lines(trace: &[String]) -> Vec<String> {
    trace.iter().enumerate().map(|(at, step)| format!("      {:>3}. {step}", at + 1)).collect()
}

/// The figures of a whole run.
pub fn figures(reports: &[Report], hunts: &[(Mutant, Option<Killed>)], seconds: f64) -> Value {
    let checks = || reports.iter().flat_map(|report| &report.reached);
    let models: Vec<Value> = reports
        .iter()
        .map(|report| {
            json!({
                "model": report.model, "what": report.what, "states": report.states, "generated": report.generated,
                "depth": report.depth, "seconds": tenths(report.seconds), "complete": report.complete,
                "violated": report.violation.as_ref().map(|violation| violation.property),
            })
        })
        .collect();
    let mutants: Vec<Value> = hunts
        .iter()
        .map(|(mutant, killed)| {
            json!({
                "model": mutant.model, "mutant": mutant.name, "trap": mutant.trap,
                "violates": killed.as_ref().map(|killed| killed.property),
                "steps": killed.as_ref().map(|killed| killed.steps),
                "seconds": killed.as_ref().map(|killed| tenths(killed.seconds)),
                "whole_rules_hold": killed.as_ref().map(|killed| killed.sound.1.is_none()),
            })
        })
        .collect();
    let killed = hunts.iter().filter_map(|(_, killed)| killed.as_ref());
    json!({
        "models": models,
        "states": reports.iter().map(|report| report.states).sum::<u64>(),
        "generated": reports.iter().map(|report| report.generated).sum::<u64>(),
        "mutants": mutants,
        "mutants_killed": killed.clone().filter(|killed| killed.counts()).count(),
        "mutants_total": hunts.len(),
        "slowest_mutant_seconds": tenths(killed.map(|killed| killed.seconds).fold(0.0, f64::max)),
        "reached": checks().filter(|(_, reached)| *reached).count(),
        "reachability_checks": checks().count(),
        "peak_memory_mib": peak_memory_mib(),
        "seconds": tenths(seconds),
    })
}

fn tenths(seconds: f64) -> f64 {
    (seconds * 10.0).round() / 10.0
}

/// 1234567 as "1,234,567".
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// As the kernel counts it; `None` where it does not say.
fn peak_memory_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib / 1024)
}
