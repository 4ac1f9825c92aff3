//! Names and numbers of the protocol: one type each, so that none can be passed for another.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A name that breaks the rule for its kind. `what` is the kind, `found` the offending text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {found:?}: {allowed}")]
pub struct BadName {
    pub what: &'static str,
    pub found: String,
    pub allowed: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $allowed:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// # Errors
            /// [`BadName`] when the text breaks the rule that the type's documentation states.
            pub fn new(text: impl Into<String>) -> Result<Self, BadName> {
                let text = text.into();
                let valid: fn(&str) -> bool = $valid;
                if valid(&text) { Ok(Self(text)) } else { Err(BadName { what: $what, found: text, allowed: $allowed }) }
            }
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl TryFrom<String> for $type {
            type Error = BadName;
            fn try_from(text: String) -> Result<Self, BadName> {
                Self::new(text)
            }
        }
        impl std::str::FromStr for $type {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                Self::new(text)
            }
        }
        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($type), self.0)
            }
        }
    };
}

fn is_label(text: &str) -> bool {
    (1..=40).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_token(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

name!(
    /// A cluster: the nodes, volumes and addresses that fail over together; the partition key of its items.
    ClusterId, "cluster", "use 1 to 40 of a-z, 0-9 and '-', not at the ends", is_label
);
name!(
    /// A node of a cluster, named in the cluster's configuration.
    NodeId, "node", "use 1 to 40 of a-z, 0-9 and '-', not at the ends", is_label
);
name!(
    /// An EC2 instance id.
    InstanceId, "instance", "an EC2 instance id looks like i-0123456789abcdef0",
    |text| text.starts_with("i-") && text.len() > 2 && is_token(text)
);
name!(
    /// One formatted replica: new on format, restore and clone; stored beside the data. Acks and membership count
    /// incarnations, never nodes, so that a wiped or restored disk is nobody's old self.
    Incarnation, "incarnation", "1 to 64 letters, digits and '-'", is_token
);
name!(
    /// One boot of one machine (`/proc/sys/kernel/random/boot_id`).
    BootId, "boot id", "1 to 64 letters, digits and '-'", is_token
);
name!(
    /// A cluster's identity for life: a row that is deleted and made again gets another.
    Lineage, "lineage", "1 to 64 letters, digits and '-'", is_token
);
name!(
    /// Marks one intended write: the same in each of its retries, never used again.
    Nonce, "nonce", "1 to 64 letters, digits and '-'", is_token
);

macro_rules! number {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $type(pub u64);

        impl $type {
            /// The number after this one. Overflow is unreachable: one change a microsecond would take 500,000 years.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($type), self.0)
            }
        }
    };
}

number!(
    /// Version of the row: every change is one conditional write that raises it by one.
    Rev
);
number!(
    /// Fencing number: rises by one with every new holder or restart of one; never reused.
    Epoch
);
number!(
    /// Renewal counter within an epoch: every write of the holder raises it by one.
    Beat
);
