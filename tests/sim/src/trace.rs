//! What happened, one line for each change of state: kept as text only when somebody will read it, always as a hash, so
//! that two runs of one seed can be shown to be the same run.

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

    /// Something that changes nothing by itself, but whose order must be the same in each run.
    pub fn mark(&mut self, now: Us, number: u64) {
        self.mix(now);
        self.mix(number);
    }

    /// A change of state. `who`: the node, the function's run, `row`, `fault` ...
    pub fn line(&mut self, now: Us, who: &str, text: impl FnOnce() -> String) {
        self.mix(now);
        for byte in who.bytes() {
            self.mix(u64::from(byte));
        }
        if let Some(lines) = &mut self.lines {
            let _ = writeln!(lines, "{:>10.3}  {who:<11} {}", now as f64 / 1e6, text());
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
