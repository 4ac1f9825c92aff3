//! The rules that a mutant of A4 leaves out. None of them exists in a shipping crate.

use super::A4;
use super::state::Left;
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
    ShowsBeforeEven,
}

const NONE: Left = Left { crashes: 0, breaks: 0, epochs: 0, flushes: 0 };

/// Every mutant of A4.
#[must_use]
pub fn mutants() -> Vec<Mutant> {
    use Mistake as M;
    let mutant = |mistake: Mistake, name, trap, left_out, bounds: A4| {
        // Judged by the damage, not by the means that it lacks.
        let bounds = A4 { means: false, ..bounds };
        let make = |mistake| {
            let bounds = bounds.clone();
            move || A4 { mistake, ..bounds.fresh() }
        };
        Mutant::new("a4", name, trap, left_out, make(None), make(Some(mistake)))
    };
    let small = |left: Left| A4::real(2, 1, 1, left);
    let twice = |left: Left| A4::real(2, 1, 2, left);
    let wide = |left: Left| A4::real(2, 2, 2, left);
    let three = |left: Left| A4::real(3, 1, 1, left);
    vec![
        mutant(
            M::VerdictClears,
            "verdict-clears",
            23,
            "a handshake of replicas with one history clears the marks",
            small(Left { breaks: 1, ..NONE }),
        ),
        mutant(
            M::OwnMarksOnly,
            "own-marks-only",
            23,
            "the standby's own marks and log are not resynced",
            small(Left { crashes: 1, epochs: 1, ..NONE }),
        ),
        mutant(
            M::LogAfterWrite,
            "log-after-write",
            23,
            "the log learns of a write after the disk has it",
            small(Left { crashes: 1, epochs: 1, ..NONE }),
        ),
        mutant(
            M::PrimarysLogIgnored,
            "primarys-log-ignored",
            23,
            "what was hot when a primary crashed is not resynced",
            small(Left { crashes: 1, epochs: 1, ..NONE }),
        ),
        mutant(
            M::StandbysLogIgnored,
            "standbys-log-ignored",
            24,
            "what was hot when a standby crashed is not resynced",
            three(Left { crashes: 1, epochs: 1, ..NONE }),
        ),
        mutant(
            M::UnsettledForgotten,
            "unsettled-forgotten",
            24,
            "what a standby has taken is not marked when its session ends",
            three(Left { epochs: 1, ..NONE }),
        ),
        mutant(
            M::ShowsBeforeEven,
            "shows-before-even",
            24,
            "a new holder shows what another member may lack",
            three(Left { epochs: 1, ..NONE }),
        ),
        mutant(
            M::OlderVersion,
            "older-version",
            0,
            "a block that is durable at the peer releases newer writes to it, too",
            twice(Left { breaks: 2, ..NONE }),
        ),
        mutant(
            M::CleanWhenSent,
            "clean-when-sent",
            28,
            "a block is clean once sent, not once durable",
            small(Left { breaks: 2, ..NONE }),
        ),
        mutant(
            M::LostNotMarked,
            "lost-not-marked",
            0,
            "a write that is lost in a resync does not mark its block",
            wide(Left { breaks: 2, ..NONE }),
        ),
        mutant(
            M::AbsentUnmarked,
            "absent-unmarked",
            0,
            "what an absent peer misses is not marked",
            small(Left { breaks: 1, ..NONE }),
        ),
        mutant(
            M::CooledUnsaved,
            "cooled-unsaved",
            40,
            "an extent leaves the log before the bitmaps are saved",
            small(Left { crashes: 1, breaks: 1, epochs: 1, flushes: 1 }),
        ),
        mutant(
            M::MarkedAfterFirst,
            "marked-after-first",
            18,
            "an image is marked inconsistent after the first block of a resync",
            wide(Left { breaks: 1, flushes: 1, ..NONE }),
        ),
        mutant(
            M::WholeUnflushed,
            "whole-unflushed",
            18,
            "an image is whole again before it is flushed",
            twice(Left { crashes: 1, breaks: 1, flushes: 1, ..NONE }),
        ),
        mutant(
            M::ResentUnmarked,
            "resent-unmarked",
            18,
            "an image that is sent again what it may have lost is not marked",
            twice(Left { crashes: 1, breaks: 1, ..NONE }),
        ),
        mutant(
            M::CopiesUnflushed,
            "copies-unflushed",
            28,
            "what a new primary has not flushed is copied",
            small(Left { crashes: 1, epochs: 2, ..NONE }),
        ),
        mutant(
            M::FlushOfOne,
            "flush-of-one",
            28,
            "a flush is not awaited on the peer",
            small(Left { flushes: 1, ..NONE }),
        ),
        mutant(M::AckOfOne, "ack-of-one", 7, "a write is acknowledged without the peer", small(NONE)),
        mutant(
            M::CacheIsDurable,
            "cache-is-durable",
            28,
            "what is written in the peer's cache counts as durable",
            small(Left { crashes: 1, breaks: 1, ..NONE }),
        ),
        mutant(
            M::OldEpochTaken,
            "old-epoch-taken",
            22,
            "a write of an older epoch reaches the disk after the promise",
            small(Left { epochs: 1, ..NONE }),
        ),
        mutant(
            M::OldSessionHeard,
            "old-session-heard",
            0,
            "an answer from an older session counts",
            small(Left { crashes: 1, breaks: 1, ..NONE }),
        ),
    ]
}
