//! Reading and writing single attributes, with errors that name the item, the attribute and both sides.

use super::TableError;
use aws_sdk_dynamodb::types::AttributeValue;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::fmt::Display;
use std::str::FromStr;

pub(super) type Attributes = HashMap<String, AttributeValue>;

/// One item that is being read.
#[derive(Debug)]
pub(super) struct Item<'a> {
    /// Its partition key and its sort key.
    pub(super) key: &'a str,
    pub(super) item: &'a str,
    pub(super) attributes: &'a Attributes,
}

impl Item<'_> {
    pub(super) fn malformed(&self, attribute: &'static str, expected: impl Into<String>) -> TableError {
        TableError::Malformed {
            key: self.key.into(),
            item: self.item.into(),
            attribute,
            found: self.attributes.get(attribute).map_or_else(|| "nothing".into(), told),
            expected: expected.into(),
        }
    }

    /// The layout's version, to be checked before anything else is believed.
    pub(super) fn version(&self, known: u64) -> Result<(), TableError> {
        match self.number("v")? {
            0 => Err(self.malformed("v", "a layout version, 1 or more")),
            found if found > known => {
                Err(TableError::Newer { key: self.key.into(), item: self.item.into(), found, known })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn number(&self, attribute: &'static str) -> Result<u64, TableError> {
        match self.attributes.get(attribute) {
            Some(AttributeValue::N(digits)) => digits.parse().ok(),
            _ => None,
        }
        .ok_or_else(|| self.malformed(attribute, "a whole number, 0 or more"))
    }

    pub(super) fn flag(&self, attribute: &'static str) -> Result<bool, TableError> {
        match self.attributes.get(attribute) {
            Some(AttributeValue::Bool(flag)) => Ok(*flag),
            _ => Err(self.malformed(attribute, "true or false")),
        }
    }

    pub(super) fn text(&self, attribute: &'static str) -> Result<&str, TableError> {
        match self.attributes.get(attribute) {
            Some(AttributeValue::S(text)) => Ok(text),
            _ => Err(self.malformed(attribute, "a text")),
        }
    }

    pub(super) fn name<T: FromStr<Err: Display>>(&self, attribute: &'static str) -> Result<T, TableError> {
        self.text(attribute)?.parse().map_err(|error: T::Err| self.malformed(attribute, error.to_string()))
    }

    /// A set of names, not empty.
    pub(super) fn names<T: FromStr<Err: Display> + Ord>(
        &self,
        attribute: &'static str,
    ) -> Result<BTreeSet<T>, TableError> {
        match self.attributes.get(attribute) {
            Some(AttributeValue::Ss(texts)) if !texts.is_empty() => texts
                .iter()
                .map(|text| text.parse().map_err(|error: T::Err| self.malformed(attribute, error.to_string())))
                .collect(),
            _ => Err(self.malformed(attribute, "a set of texts, not empty")),
        }
    }

    /// A map that may be absent.
    pub(super) fn map<T: DeserializeOwned>(&self, attribute: &'static str) -> Result<Option<T>, TableError> {
        let Some(value) = self.attributes.get(attribute) else { return Ok(None) };
        if !value.is_m() {
            return Err(self.malformed(attribute, "a map"));
        }
        from_native(value)
            .ok_or_else(|| "texts, whole numbers, flags, lists and maps only".to_owned())
            .and_then(|value| serde_json::from_value(value).map(Some).map_err(|error| error.to_string()))
            .map_err(|expected| self.malformed(attribute, expected))
    }

    /// A text that holds JSON.
    pub(super) fn json<T: DeserializeOwned>(&self, attribute: &'static str) -> Result<T, TableError> {
        serde_json::from_str(self.text(attribute)?)
            .map_err(|error| self.malformed(attribute, format!("JSON of this layout version ({error})")))
    }
}

/// How a value is shown in an error: short, and never the whole item.
fn told(value: &AttributeValue) -> String {
    const LONGEST: usize = 120;
    let mut text = match value {
        AttributeValue::S(text) => format!("{text:?}"),
        AttributeValue::N(digits) => format!("the number {digits}"),
        AttributeValue::Bool(flag) => flag.to_string(),
        AttributeValue::Null(_) => "null".into(),
        AttributeValue::Ss(texts) => format!("the set {texts:?}"),
        other => from_native(other).map_or_else(|| "a value of another type".into(), |value| value.to_string()),
    };
    if let Some((cut, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(cut);
        text.push_str("...");
    }
    text
}

pub(super) fn number(value: u64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

pub(super) fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

/// JSON as DynamoDB's own types. Sets do not come through here.
pub(super) fn to_native(value: Value) -> AttributeValue {
    match value {
        Value::Null => AttributeValue::Null(true),
        Value::Bool(flag) => AttributeValue::Bool(flag),
        Value::Number(number) => AttributeValue::N(number.to_string()),
        Value::String(text) => AttributeValue::S(text),
        Value::Array(list) => AttributeValue::L(list.into_iter().map(to_native).collect()),
        Value::Object(map) => {
            AttributeValue::M(map.into_iter().map(|(name, value)| (name, to_native(value))).collect())
        }
    }
}

/// The reverse. `None`: a type, or a number, that leasehold never writes.
pub(super) fn from_native(value: &AttributeValue) -> Option<Value> {
    Some(match value {
        AttributeValue::Null(_) => Value::Null,
        AttributeValue::Bool(flag) => Value::Bool(*flag),
        AttributeValue::N(digits) => Value::Number(digits.parse::<u64>().ok()?.into()),
        AttributeValue::S(text) => Value::String(text.clone()),
        AttributeValue::L(list) => Value::Array(list.iter().map(from_native).collect::<Option<_>>()?),
        AttributeValue::M(map) => Value::Object(
            map.iter().map(|(name, value)| Some((name.clone(), from_native(value)?))).collect::<Option<_>>()?,
        ),
        _ => return None,
    })
}
