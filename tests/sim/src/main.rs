//! `sim`: many seeds, progress and figures for people, and one line of JSON at the end. Exit 1 on a violation, after the
//! replayed trace of it; and where a run of CI's size has not met all that it is to meet.

use serde_json::{Value, json};
use sim::report::Counts;
use sim::{Outcome, run};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str =
    "usage: sim [--seeds N] [--seed FIRST] [--threads N] [--seconds-budget S] [--stop-at-first] [--trace]
  --seeds N           how many seeds to run, one after the other from FIRST (1000)
  --seed FIRST        the first of them (1)
  --threads N         how many seeds at once (2)
  --seconds-budget S  begin no seed after this time
  --stop-at-first     a violation ends the run, without its trace
  --trace             print the trace of each seed, in one thread";

/// One seed in this many runs twice, and must come to the same.
const TWICE: u64 = 100;
/// A run of this many seeds is to meet everything, and so many failovers.
const CI_SEEDS: u64 = 4_000;
const CI_FAILOVERS: u64 = 5_000;
/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
struct Options {
    seeds: u64,
    first: u64,
    threads: usize,
    budget: Option<Duration>,
    stop_at_first: bool,
    trace: bool,
}

fn options() -> Result<Options, String> {
    let mut options = Options { seeds: 1_000, first: 1, threads: 2, budget: None, stop_at_first: false, trace: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let mut number = || -> Result<u64, String> {
            let value = arguments.next().ok_or_else(|| format!("{name} needs a number"))?;
            value.parse().map_err(|_| format!("{name} {value}: a number is needed"))
        };
        match name.as_str() {
            "--seeds" => options.seeds = number()?,
            "--seed" => options.first = number()?,
            "--threads" => options.threads = usize::try_from(number()?.clamp(1, 64)).unwrap_or(1),
            "--seconds-budget" => options.budget = Some(Duration::from_secs(number()?)),
            "--stop-at-first" => options.stop_at_first = true,
            "--trace" => options.trace = true,
            "--help" | "-h" => return Err(String::new()),
            other => return Err(format!("{other} is not known")),
        }
    }
    Ok(options)
}

/// What the threads have come to so far.
#[derive(Debug, Default)]
struct Total {
    seeds: u64,
    twice: u64,
    counts: Counts,
    busy: Duration,
    violation: Option<Value>,
    told: Option<Duration>,
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("{problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    // A panic is a finding, told with its seed; its backtrace would only hide that.
    std::panic::set_hook(Box::new(|_| {}));
    let began = now();
    let next = AtomicU64::new(options.first);
    let stop = AtomicBool::new(false);
    let total = Mutex::new(Total::default());
    let threads = if options.trace { 1 } else { options.threads };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| work(&options, began, &next, &stop, &total));
        }
    });
    let total = total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    finish(&options, &total, began.elapsed())
}

#[expect(clippy::disallowed_methods, reason = "how fast the simulation is; nothing in it knows")]
fn now() -> Instant {
    Instant::now()
}

/// What this thread has had of a core, as the kernel counts it: other work on the machine makes no seed slower.
fn busy() -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = told.split_whitespace().next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

fn work(options: &Options, began: Instant, next: &AtomicU64, stop: &AtomicBool, total: &Mutex<Total>) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        let over = options.budget.is_some_and(|budget| began.elapsed() > budget);
        if seed - options.first >= options.seeds || stop.load(Ordering::Relaxed) || over {
            return;
        }
        let started = busy();
        let mut outcome = run(seed, options.trace);
        let mut twice = 0;
        if seed.is_multiple_of(TWICE) && outcome.violation.is_none() {
            twice = 1;
            let again = run(seed, false);
            if again.hash != outcome.hash {
                outcome.violation = Some(sim::Violation {
                    invariant: "determinism",
                    at: 0,
                    what: format!("trace hashes {:016x} and {:016x}", outcome.hash, again.hash),
                });
            }
        }
        let took = busy().saturating_sub(started);
        if options.trace {
            println!("{}", outcome.trace);
        }
        let mut total = total.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        total.seeds += 1;
        total.twice += twice;
        total.busy += took;
        total.counts.add(&outcome.counts);
        if let Some(violation) = &outcome.violation {
            stop.store(true, Ordering::Relaxed);
            if total.violation.is_none() {
                total.violation = Some(json!({
                    "seed": seed, "invariant": violation.invariant, "what": violation.what,
                    "seconds": (began.elapsed().as_secs_f64() * 1e3).round() / 1e3,
                    "simulated_s": violation.at as f64 / 1e6,
                }));
                tell(options, &outcome);
            }
        }
        let elapsed = began.elapsed();
        if total.told.is_none_or(|told| elapsed - told >= PROGRESS) && !options.trace {
            total.told = Some(elapsed);
            println!(
                "{:>6.1} s: {} seeds, {:.1} simulated hours, {} failovers, {} writes, {} faults injected, {:.0} x real time per core",
                elapsed.as_secs_f64(),
                total.seeds,
                total.counts.hours(),
                total.counts.failovers,
                total.counts.acknowledged,
                total.counts.all_faults(),
                speed(&total)
            );
        }
    }
}

fn speed(total: &Total) -> f64 {
    total.counts.simulated as f64 / 1e6 / total.busy.as_secs_f64().max(1e-9)
}

/// A violation: how to see it again, and the way there.
fn tell(options: &Options, outcome: &Outcome) {
    let Some(violation) = &outcome.violation else { return };
    let seed = outcome.seed;
    println!(
        "VIOLATION of {} in seed {seed} at {:.3} s: {}\nreplay: make sim SEEDS=1 SEED={seed}",
        violation.invariant,
        violation.at as f64 / 1e6,
        violation.what
    );
    if !options.stop_at_first && !options.trace {
        println!("{}", run(seed, true).trace);
        println!("VIOLATION of {}: {}\nreplay: make sim SEEDS=1 SEED={seed}", violation.invariant, violation.what);
    }
}

/// What a run of CI's size, that came to its end, is to meet and did not.
fn missing(total: &Total) -> Vec<String> {
    if total.seeds < CI_SEEDS || total.violation.is_some() {
        return Vec::new();
    }
    let mut missing = total.counts.never();
    if total.counts.failovers < CI_FAILOVERS {
        missing.push(format!("as many as {CI_FAILOVERS} failovers"));
    }
    missing
}

fn finish(options: &Options, total: &Total, took: Duration) -> ExitCode {
    println!(
        "{} seeds from {} ({} of them twice, with equal traces) in {:.1} s, {:.0} x real time per core\n{}",
        total.seeds,
        options.first,
        total.twice,
        took.as_secs_f64(),
        speed(total),
        total.counts.text()
    );
    let mut figures = total.counts.json();
    figures["seeds"] = json!(total.seeds);
    figures["first_seed"] = json!(options.first);
    figures["twice"] = json!(total.twice);
    figures["seconds"] = json!((took.as_secs_f64() * 1e3).round() / 1e3);
    figures["times_real_per_core"] = json!(speed(total).round());
    figures["violations"] = json!(u64::from(total.violation.is_some()));
    figures["violation"] = total.violation.clone().unwrap_or(Value::Null);
    // Who hunts for a mistake looks for violations only.
    let missing = if options.stop_at_first { Vec::new() } else { missing(total) };
    if !missing.is_empty() {
        println!("NEVER MET in {} seeds: {}", total.seeds, missing.join("; "));
    }
    figures["never_met"] = json!(missing);
    println!("{figures}");
    if total.violation.is_some() || !missing.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
