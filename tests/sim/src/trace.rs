//! What happened, one line for each change of state: kept as text only when somebody will read it, always as a hash, so
//! that two runs of one seed can be shown to be the same run. The hash is of every word of every line, and of every step,
//! message, write and read besides: runs that differ in anything differ in it.

use std::fmt::Write;

/// Simulated microseconds.
pub type Us = u64;

#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    lines: Option<String>,
}

impl Trace {
    #[must_use]
    pub fn new(keep: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, lines: keep.then(String::new) }
    }

    fn mix(&mut self, number: u64) {
        self.hash = (self.hash.rotate_left(5) ^ number).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn mix_text(&mut self, text: &str) {
        self.mix(text.len() as u64);
        for bytes in text.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            self.mix(u64::from_le_bytes(word));
        }
    }

    /// Something that changes nothing by itself, but whose order must be the same in each run.
    pub fn mark(&mut self, now: Us, number: u64) {
        self.mix(now);
        self.mix(number);
    }

    /// A change of state. `who`: the node, the function's run, `row`, `fault` ...
    pub fn line(&mut self, now: Us, who: &str, text: impl FnOnce() -> String) {
        let text = text();
        self.mix(now);
        self.mix_text(who);
        self.mix_text(&text);
        if let Some(lines) = &mut self.lines {
            let _ = writeln!(lines, "{:>10.3}  {who:<11} {text}", now as f64 / 1e6);
        }
    }

    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    #[must_use]
    pub fn text(&self) -> &str {
        self.lines.as_deref().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(keep: bool, who: &str, text: &str) -> u64 {
        let mut trace = Trace::new(keep);
        trace.line(7, who, || text.into());
        trace.hash()
    }

    #[test]
    fn every_word_counts_and_keeping_them_does_not() {
        assert_eq!(hash(true, "a", "epoch 12 begins"), hash(false, "a", "epoch 12 begins"));
        for other in ["epoch 13 begins", "epoch 12 begin", "epoch 12 begins\0", "begins epoch 12", ""] {
            assert_ne!(hash(false, "a", "epoch 12 begins"), hash(false, "a", other));
        }
        assert_ne!(hash(false, "ab", "c"), hash(false, "a", "bc"));
    }
}
