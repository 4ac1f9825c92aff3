//! Reading configuration so that every mistake is told at once, each with its key, its value and what is allowed.

use serde_json::{Map, Value};
use std::fmt;

/// One mistake in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where: `policy.ttl_ms`, `nodes[1].instance`.
    pub key: String,
    /// What stands there; `None` where something is missing.
    pub found: Option<String>,
    /// What would be allowed.
    pub allowed: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.found {
            Some(found) => write!(f, "{} = {}: {}", self.key, found, self.allowed),
            None => write!(f, "{} is missing: {}", self.key, self.allowed),
        }
    }
}

/// All mistakes of one configuration, one a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Problems(pub Vec<Problem>);

/// One table of a configuration being read. Keys that nobody asked for are mistakes.
#[derive(Debug)]
pub struct Fields<'a> {
    path: String,
    table: &'a Map<String, Value>,
    asked: Vec<&'static str>,
    problems: Vec<Problem>,
}

impl<'a> Fields<'a> {
    /// # Errors
    /// A [`Problem`] where `value` is no table.
    pub fn of(path: &str, value: &'a Value) -> Result<Self, Problem> {
        let table = value.as_object().ok_or_else(|| Problem {
            key: if path.is_empty() { "configuration".into() } else { path.into() },
            found: Some(value.to_string()),
            allowed: "expected a table of keys and values".into(),
        })?;
        Ok(Self { path: path.into(), table, asked: Vec::new(), problems: Vec::new() })
    }

    fn key(&self, name: &str) -> String {
        if self.path.is_empty() { name.into() } else { format!("{}.{name}", self.path) }
    }

    /// Notes a mistake about `name`.
    pub fn bad(&mut self, name: &str, allowed: impl Into<String>) {
        let problem = Problem {
            key: self.key(name),
            found: self.table.get(name).map(ToString::to_string),
            allowed: allowed.into(),
        };
        self.problems.push(problem);
    }

    /// The raw value of an optional key.
    pub fn value(&mut self, name: &'static str) -> Option<&'a Value> {
        self.asked.push(name);
        self.table.get(name)
    }

    /// An optional value, turned into `T` by `read`, which says what is allowed when it cannot.
    pub fn optional<T>(&mut self, name: &'static str, read: impl FnOnce(&'a Value) -> Result<T, String>) -> Option<T> {
        match read(self.value(name)?) {
            Ok(value) => Some(value),
            Err(allowed) => {
                self.bad(name, allowed);
                None
            }
        }
    }

    /// A required value.
    pub fn required<T>(
        &mut self,
        name: &'static str,
        needed: &str,
        read: impl FnOnce(&'a Value) -> Result<T, String>,
    ) -> Option<T> {
        if self.table.contains_key(name) {
            self.optional(name, read)
        } else {
            self.asked.push(name);
            self.bad(name, needed);
            None
        }
    }

    /// A table inside this one; its mistakes become this one's.
    pub fn table<T>(&mut self, name: &'static str, read: impl FnOnce(&mut Fields<'a>) -> Option<T>) -> Option<T> {
        let value = self.value(name)?;
        let path = self.key(name);
        self.within(&path, value, read)
    }

    /// A list of tables inside this one; an absent one is empty.
    pub fn tables<T>(&mut self, name: &'static str, mut read: impl FnMut(&mut Fields<'a>) -> Option<T>) -> Vec<T> {
        let Some(value) = self.value(name) else { return Vec::new() };
        let Some(list) = value.as_array() else {
            self.bad(name, "expected a list of tables");
            return Vec::new();
        };
        let path = self.key(name);
        list.iter()
            .enumerate()
            .filter_map(|(at, value)| self.within(&format!("{path}[{at}]"), value, &mut read))
            .collect()
    }

    fn within<T>(
        &mut self,
        path: &str,
        value: &'a Value,
        read: impl FnOnce(&mut Fields<'a>) -> Option<T>,
    ) -> Option<T> {
        match Fields::of(path, value) {
            Err(problem) => {
                self.problems.push(problem);
                None
            }
            Ok(mut inner) => {
                let read = read(&mut inner);
                self.problems.extend(inner.finish());
                read
            }
        }
    }

    /// All mistakes, with those about keys that nobody asked for.
    #[must_use]
    pub fn finish(mut self) -> Vec<Problem> {
        let unknown: Vec<String> =
            self.table.keys().filter(|key| !self.asked.contains(&key.as_str())).cloned().collect();
        for name in unknown {
            let allowed = format!("unknown key; known here: {}", self.asked.join(", "));
            self.bad(&name, allowed);
        }
        self.problems
    }
}

/// Reads a text.
///
/// # Errors
/// What is allowed.
pub fn text(value: &Value) -> Result<String, String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned).ok_or_else(|| "expected a text, not empty".into())
}

/// Reads a whole number that is not negative.
///
/// # Errors
/// What is allowed.
pub fn number(value: &Value) -> Result<u64, String> {
    value.as_u64().ok_or_else(|| "expected a whole number, 0 or more".into())
}

/// Reads a duration in milliseconds.
///
/// # Errors
/// What is allowed.
pub fn millis(value: &Value) -> Result<crate::time::Millis, String> {
    number(value).map(crate::time::Millis)
}

/// Reads a list of texts.
///
/// # Errors
/// What is allowed.
pub fn texts(value: &Value) -> Result<Vec<String>, String> {
    let list = value.as_array().ok_or("expected a list of texts")?;
    list.iter().map(|item| text(item).map_err(|_| "expected a list of texts, none empty".to_owned())).collect()
}

/// Reads whatever parses from a text.
///
/// # Errors
/// The parser's own words.
pub fn parsed<T: std::str::FromStr<Err: fmt::Display>>(value: &Value) -> Result<T, String> {
    text(value)?.parse::<T>().map_err(|error| error.to_string())
}
