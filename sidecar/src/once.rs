//! Telling the same trouble once: an outage is no news every two seconds.

use lease::time::{Millis, Moment};
use std::collections::BTreeMap;

/// The same trouble is told again after this time, if it lasts.
pub const AGAIN: Millis = Millis(60_000);
/// Troubles remembered. Beyond it new ones wait for old ones to be forgotten: a log that floods helps nobody.
const KINDS_MAX: usize = 32;

/// Troubles told lately. Texts that differ in their numbers only (tries, times) are the same trouble.
#[derive(Debug, Default)]
pub struct Once(BTreeMap<String, Moment>);

impl Once {
    /// Whether it is to be told now.
    pub fn is_new(&mut self, what: &str, now: Moment) -> bool {
        self.0.retain(|_, at| now.longest_since(*at) < AGAIN);
        let kind: String = what.chars().filter(|character| !character.is_ascii_digit()).collect();
        if self.0.contains_key(&kind) || self.0.len() >= KINDS_MAX {
            return false;
        }
        self.0.insert(kind, now);
        true
    }

    /// All is well again: the next trouble is news.
    pub fn forget(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_told_once_whatever_its_numbers() {
        let mut once = Once::default();
        let start = Moment::default();
        assert!(once.is_new("no answer in 8 tries", start));
        assert!(!once.is_new("no answer in 12 tries", start.after(Millis(1_000))));
        assert!(once.is_new("no answer in 9 tries", start.after(AGAIN)));
        once.forget();
        assert!(once.is_new("no answer in 9 tries", start.after(AGAIN)));
    }

    #[test]
    fn a_flood_of_troubles_is_cut_off() {
        let mut once = Once::default();
        let told =
            (b'a'..=b'z').flat_map(|one| (b'a'..=b'z').map(move |two| format!("{}{}", one as char, two as char)));
        assert_eq!(told.filter(|what| once.is_new(what, Moment::default())).count(), KINDS_MAX);
    }
}
