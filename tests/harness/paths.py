"""Where things are in this checkout."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
CDK = ROOT / "cdk"
DIST = ROOT / "dist"  # the functions' zips
BINARY = ROOT / "target" / "release" / "leasehold"
CACHE = ROOT / "target" / "harness"  # what may be reused between runs; safe to remove
