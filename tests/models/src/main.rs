//! `models`: searches every model to the end and hunts every mutant. See `--help`.

use models::report::{figures, model_lines, mutant_line, trace_lines};
use models::runner::{Killed, Report, Size, hunt_all, stopwatch};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HELP: &str = "\
models [--only a1|a2|a3|a4] [--search TEXT] [--mutant NAME] [--traces] [--big]

Searches the models of the protocol: the real rules to the end, then each mutant until it violates something.
The last line of the output is JSON with the figures.

  --only MODEL   one model and its mutants
  --search TEXT  the searches with this in their description, no mutants
  --mutant NAME  one mutant and its trace, nothing else
  --traces       the trace of every mutant
  --big          larger bounds, as far as time allows; no mutants

Fails on a violated invariant, a mutant that survives, is found in more than a minute or falls no sooner than the whole rules
within its bounds, a state that should be reached and is not, and a search that was not exhausted within its bounds.";

struct Wanted {
    only: Option<String>,
    search: Option<String>,
    mutant: Option<String>,
    traces: bool,
    big: bool,
}

fn wanted() -> Result<Wanted, String> {
    let mut wanted = Wanted { only: None, search: None, mutant: None, traces: false, big: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} wants a value"));
        match word.as_str() {
            "--only" => wanted.only = Some(value()?),
            "--search" => wanted.search = Some(value()?),
            "--mutant" => wanted.mutant = Some(value()?),
            "--traces" => wanted.traces = true,
            "--big" => wanted.big = true,
            other => return Err(format!("{other}: not known")),
        }
    }
    if wanted.only.as_deref().is_some_and(|only| !["a1", "a2", "a3", "a4"].contains(&only)) {
        return Err("--only takes a1, a2, a3 or a4".into());
    }
    Ok(wanted)
}

fn main() -> ExitCode {
    let wanted = match wanted() {
        Ok(wanted) => wanted,
        Err(problem) => {
            eprintln!("{problem}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    let from = stopwatch();
    let only = wanted.only.as_deref();
    let mut reports = Vec::new();
    if wanted.mutant.is_none() {
        let text = wanted.search.as_deref().unwrap_or_default();
        let searches = models::exhaustive(if wanted.big { Size::Big } else { Size::Ci }, only);
        for search in searches.iter().filter(|search| search.what.contains(text)) {
            let report = search.run();
            model_lines(&report).iter().for_each(|line| println!("{line}"));
            reports.push(report);
        }
    }
    let no_mutants = wanted.mutant.is_none() && (wanted.big || wanted.search.is_some());
    let mut mutants = if no_mutants { Vec::new() } else { models::mutants(only) };
    if let Some(name) = &wanted.mutant {
        mutants.retain(|mutant| mutant.name == name);
        if mutants.is_empty() {
            let names: Vec<_> = models::mutants(only).iter().map(|mutant| mutant.name).collect();
            eprintln!("there is no mutant {name}; there are: {}", names.join(", "));
            return ExitCode::from(2);
        }
    }
    let traces = wanted.traces || wanted.mutant.is_some();
    let hunted = hunt_all(&mutants, |mutant, killed| {
        let mut lines = vec![mutant_line(mutant, killed)];
        if let Some(killed) = killed.filter(|_| traces) {
            lines.extend(trace_lines(&killed.trace));
        }
        println!("{}", lines.join("\n"));
    });
    let hunts: Vec<_> = mutants.into_iter().zip(hunted).collect();
    println!("{}", figures(&reports, &hunts, from.elapsed().as_secs_f64()));
    let holds = reports.iter().all(Report::holds)
        && hunts.iter().all(|(_, killed)| killed.as_ref().is_some_and(Killed::counts));
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
