//! The rules that a mutant of A4 leaves out. None of them exists in a shipping crate.

use super::A4;
use crate::runner::Mutant;

/// One rule left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    VerdictClears,
    OwnMarksOnly,
    LogAfterWrite,
    PrimarysLogIgnored,
    StandbysLogIgnored,
    OlderVersion,
    CleanWhenSent,
    LostNotMarked,
    AbsentUnmarked,
    UnsettledForgotten,
    CooledUnsaved,
    MarkedAfterFirst,
    WholeUnflushed,
    ResentUnmarked,
    CopiesUnflushed,
    FlushOfOne,
    AckOfOne,
    CacheIsDurable,
    OldEpochTaken,
    OldSessionHeard,
    HandsOverUndrained,
}

/// Every mutant of A4.
#[must_use]
pub fn mutants() -> Vec<Mutant> {
    use Mistake as M;
    let mutant = |mistake: Mistake, name, trap, left_out, bounds: &A4| {
        let make = |mistake| {
            let bounds = bounds.clone();
            move || A4 { mistake, ..bounds.fresh() }
        };
        Mutant::new("a4", name, trap, left_out, make(None), make(Some(mistake)))
    };
    let two = &A4::real(2, 2, 2).with(2, 1, 1, 1);
    let three = &A4::real(3, 1, 1).with(2, 2, 1, 0);
    vec![
        mutant(M::VerdictClears, "verdict-clears", 23, "a handshake between kin clears the marks", two),
        mutant(M::OwnMarksOnly, "own-marks-only", 23, "the standby's own marks are not resynced", two),
        mutant(M::LogAfterWrite, "log-after-write", 23, "the log learns of a write after the disk has it", two),
        mutant(
            M::PrimarysLogIgnored,
            "primarys-log-ignored",
            23,
            "what was hot when a primary crashed is not resynced",
            two,
        ),
        mutant(
            M::StandbysLogIgnored,
            "standbys-log-ignored",
            24,
            "what was hot when a standby crashed is not resynced",
            three,
        ),
        mutant(M::OlderVersion, "older-version", 0, "a block that is durable at the peer releases newer writes to it", two),
        mutant(M::CleanWhenSent, "clean-when-sent", 28, "a block is clean once sent, not once durable", two),
        mutant(M::LostNotMarked, "lost-not-marked", 0, "a write lost behind a copied block does not mark it again", two),
        mutant(M::AbsentUnmarked, "absent-unmarked", 0, "what an absent peer misses is not marked", two),
        mutant(
            M::UnsettledForgotten,
            "unsettled-forgotten",
            24,
            "what a standby has taken is not marked when its session ends",
            three,
        ),
        mutant(M::CooledUnsaved, "cooled-unsaved", 40, "an extent leaves the log before the bitmaps are saved", two),
        mutant(
            M::MarkedAfterFirst,
            "marked-after-first",
            18,
            "an image is marked inconsistent after the first block of a resync",
            two,
        ),
        mutant(M::WholeUnflushed, "whole-unflushed", 18, "an image is whole again before it is flushed", two),
        mutant(
            M::ResentUnmarked,
            "resent-unmarked",
            18,
            "an image that is sent again what it may have lost is not marked",
            &A4::real(2, 1, 2).with(1, 1, 1, 1),
        ),
        mutant(M::CopiesUnflushed, "copies-unflushed", 28, "what a new primary has not flushed is copied", two),
        mutant(M::FlushOfOne, "flush-of-one", 28, "a flush is not awaited on the peer", two),
        mutant(M::AckOfOne, "ack-of-one", 0, "a write is acknowledged without the peer", two),
        mutant(M::CacheIsDurable, "cache-is-durable", 28, "written in the peer's cache counts as durable", two),
        mutant(M::OldEpochTaken, "old-epoch-taken", 22, "a write of an older epoch reaches the disk after the promise", two),
        mutant(M::OldSessionHeard, "old-session-heard", 0, "an answer from an older session counts", two),
        mutant(
            M::HandsOverUndrained,
            "hands-over-undrained",
            24,
            "the set is kept by a hand-over in the middle of a write",
            three,
        ),
    ]
}
