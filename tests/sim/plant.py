#!/usr/bin/env python3
"""Plants known mistakes into the shipping sources, one at a time, and lets the simulator look for each.

A simulator that finds nothing shows nothing, unless it is shown to find what is there. Each `planted/NN-name.patch` leaves
out one rule; NN is the number of the trap, its text says what is left out, and the line `Falls:` which invariants are
expected to fall. The patch is applied to a copy of the sources under target/planted, the simulator is built from it and
run from several first seeds on one core, until the first violation. A mistake counts as found where the median over these
runs is within the budget, and only by seeds in which the sources as they are show nothing. These are run as long, too.

    tests/sim/plant.py                 all mistakes, and the sources as they are
    tests/sim/plant.py 05 19-wiped     those whose name begins so
    tests/sim/plant.py --list          names and what each leaves out

A patch that no longer applies is a failure: whoever changes the rule changes the patch, or says in the commit why the
mistake can no longer be made. The last line is one JSON object. Exit code 1: a mistake was not found, or the sources as
they are show a violation.
"""
import argparse
import json
import os
import pathlib
import re
import resource
import shutil
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATCHES = ROOT / "tests/sim/planted"
WORK = ROOT / "target/planted"
COPY = WORK / "src"
# What the simulator is built from, and the manifests that cargo wants of every member.
SOURCES = ["Cargo.toml", "Cargo.lock", "rust-toolchain.toml", "lease", "lambdas", "sidecar", "tests/sim", "tests/models",
           "tests/Cargo.toml", "tests/src"]


class Failed(Exception):
    """Something is wrong with a patch, the build or the simulator itself: no statement about a mistake is possible."""


def run(*command, cwd=ROOT, **more):
    return subprocess.run(command, cwd=cwd, text=True, capture_output=True, check=False, **more)


def copy_sources():
    """Makes the copy equal to the tracked sources. Equal files are left alone, so that cargo rebuilds only what differs."""
    listed = run("git", "ls-files", "-z", "--", *SOURCES)
    if listed.returncode:
        raise Failed(f"git ls-files: {listed.stderr}")
    wanted = {pathlib.Path(name) for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}
    for path in sorted(wanted):
        there, here = COPY / path, (ROOT / path).read_bytes()
        if not there.is_file() or there.read_bytes() != here:
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_bytes(here)
    for there in [path for path in COPY.rglob("*") if path.is_file()]:
        if there.relative_to(COPY) not in wanted:
            there.unlink()


def build():
    """Builds the simulator from the copy. Returns the program."""
    # Builds take most of the time, and the simulator is hardly slower for it.
    environment = {**os.environ, "CARGO_TARGET_DIR": str(WORK), "CARGO_PROFILE_RELEASE_OPT_LEVEL": "1"}
    built = run("cargo", "build", "--release", "--quiet", "-p", "sim", cwd=COPY, env=environment)
    if built.returncode:
        raise Failed(f"the copy does not build:\n{built.stderr[-4000:]}")
    return WORK / "release/sim"


def build_clean():
    """Builds the simulator from the sources as they are, and keeps it beside the one that the next patch overwrites."""
    copy_sources()
    return shutil.copy2(build(), WORK / "sim-of-the-sources")


def apply(patch):
    # The copy lies inside a repository: without the ceiling git would look for the files at that repository's root.
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(WORK)}
    applied = run("git", "apply", "--whitespace=nowarn", str(patch), cwd=COPY, env=environment)
    touched = set(re.findall(r"^\+\+\+ b/(.*)$", patch.read_text(), re.MULTILINE))
    unchanged = [name for name in touched if (COPY / name).read_bytes() == (ROOT / name).read_bytes()]
    if applied.returncode or not touched or unchanged:
        raise Failed(f"{patch.name} no longer applies; adapt it to the sources as they are:\n{applied.stderr}")


def hunt(program, first, limit, seeds=1_000_000_000):
    """Runs from seed `first` until a violation or the limit. Returns (seconds of one core, seeds run, violation or None)."""
    began = cpu_seconds()
    command = [str(program), "--seed", str(first), "--seeds", str(seeds), "--threads", "1",
               "--seconds-budget", str(limit), "--stop-at-first"]
    try:
        ended = run(*command, timeout=limit + 60)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{' '.join(command)}: still running {limit + 60} s after its start") from error
    seconds = cpu_seconds() - began
    lines = ended.stdout.strip().splitlines()
    try:
        told = json.loads(lines[-1])
    except (IndexError, ValueError) as error:
        raise Failed(f"{' '.join(command)}: exit {ended.returncode}, no JSON at the end:\n{ended.stderr[-2000:]}") from error
    if ended.returncode not in (0, 1) or bool(told["violation"]) != (ended.returncode == 1):
        raise Failed(f"{' '.join(command)}: exit {ended.returncode}, but the violation told is {told['violation']}")
    return seconds, told["seeds"], told["violation"]


def cpu_seconds():
    """What programs that have ended took of a core, so that a busy machine makes no mistake look harder to find."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def header(patch):
    text = patch.read_text().split("\ndiff --git", 1)[0]
    falls = re.search(r"^Falls: (.*)$", text, re.MULTILINE)
    if not falls:
        raise Failed(f"{patch.name}: no line `Falls:`")
    return text.strip(), falls.group(1)


def look_for(patch, clean, options):
    """Plants one mistake and looks for it. Returns its figures."""
    apply(patch)
    program = build()
    seconds, fell, seeds = [], [], 0
    for first in firsts(options):
        took, ran, violation = hunt(program, first, options.limit)
        seeds += ran
        if violation and hunt(clean, violation["seed"], options.limit, seeds=1)[2]:
            raise Failed(f"seed {violation['seed']} breaks {violation['invariant']} in the sources as they are, too")
        # A run that found nothing would have taken longer than its limit; how much, nobody knows.
        seconds.append(took if violation else float("inf"))
        fell += [f"{violation['invariant']} (seed {violation['seed']}): {violation['what']}"] if violation else []
    median, worst = statistics.median(seconds), max(seconds)
    found = median <= options.budget
    invariants = sorted({what.split(" ")[0] for what in fell})
    print(f"{'found ' if found else 'MISSED'} {patch.stem:<36} {'/'.join(invariants) or '-':<18} "
          f"median {told(median, options):>7}  worst {told(worst, options):>7}  seeds {seeds}  "
          f"(expected: {header(patch)[1]})", *(f"\n         {what}" for what in fell), flush=True)
    finite = [None if figure == float("inf") else round(figure, 1) for figure in (median, worst)]
    return {"name": patch.stem, "found": found, "fell": fell, "median_s": finite[0], "worst_s": finite[1]}


def told(seconds, options):
    return f"> {options.limit} s" if seconds == float("inf") else f"{seconds:.1f} s"


def firsts(options):
    """First seeds so far apart that no two runs meet."""
    return [options.seed + number * 10_000_000 for number in range(options.runs)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="beginnings of the names of patches; none: all")
    parser.add_argument("--list", action="store_true", help="say what there is")
    parser.add_argument("--runs", type=int, default=5, help="first seeds for each mistake (default 5)")
    parser.add_argument("--seed", type=int, default=1, help="the first of them (default 1)")
    parser.add_argument("--budget", type=int, default=120, help="seconds of one core within which the median must lie (default 120)")
    parser.add_argument("--limit", type=int, default=None, help="seconds on the clock after which a run ends (default: the budget)")
    parser.add_argument("--no-clean", action="store_true", help="do not search the sources as they are")
    options = parser.parse_args()
    options.limit = options.limit or options.budget
    patches = [patch for patch in sorted(PATCHES.glob("*.patch"))
               if not options.names or any(patch.name.startswith(name) for name in options.names)]
    if options.list:
        for patch in patches:
            print(f"{patch.stem}\n{header(patch)[0]}\n")
        return 0
    if not patches:
        raise Failed(f"no patch in {PATCHES} begins with any of {options.names}")
    result = {"planted": [], "clean": None}
    clean = build_clean()
    if not options.no_clean:
        hunts = [hunt(clean, first, options.limit) for first in firsts(options)]
        fell = [f"{violation['invariant']} (seed {violation['seed']})" for _, _, violation in hunts if violation]
        seeds = sum(seeds for _, seeds, _ in hunts)
        result["clean"] = {"seconds": round(sum(seconds for seconds, _, _ in hunts)), "seeds": seeds, "fell": fell}
        print(f"{'FALSE ' if fell else 'clean '} {'the sources as they are':<36} {'/'.join(fell) or '-':<18} seeds {seeds}",
              flush=True)
    broken = 0
    for patch in patches:
        try:
            copy_sources()
            result["planted"].append(look_for(patch, clean, options))
        except Failed as error:
            broken += 1
            print(f"BROKEN {patch.stem}: {error}", flush=True)
    copy_sources()
    missed = [bug["name"] for bug in result["planted"] if not bug["found"]]
    print(json.dumps({**result, "missed": missed, "broken": broken}))
    return 1 if missed or broken or (result["clean"] or {}).get("fell") else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as error:
        sys.exit(f"plant.py: {error}")
