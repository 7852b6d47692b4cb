//! One line of NDJSON: whether it is JSON, and what its key is. Pure.

use std::fmt;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// JSON is UTF-8.
    #[error("not UTF-8 from byte {0} on")]
    Utf8(usize),
    /// No JSON.
    #[error("not JSON: {reason} (column {column})")]
    Json {
        /// What the parser says.
        reason: String,
        /// Where, from 1.
        column: usize,
    },
    /// A key that is no single value.
    #[error("field {0:?} is no key: it must be a string, a number, true, false or null")]
    Key(String),
}

/// Whether there is nothing on the line.
pub fn is_blank(line: &[u8]) -> bool {
    line.iter().all(u8::is_ascii_whitespace)
}

/// Checks that a line is JSON, and gives the key: the bytes of the named field of the outermost object if it is a
/// string, its JSON text as it stands if it is a number or a boolean, none if it is null or not there. Where a field
/// is named twice the last one counts.
pub fn key_of(line: &[u8], field: Option<&str>) -> Result<Option<Bytes>, LineError> {
    let text = std::str::from_utf8(line).map_err(|error| LineError::Utf8(error.valid_up_to() + 1))?;
    let mut json = serde_json::Deserializer::from_str(text);
    let raw = match field {
        Some(field) => FieldOf(field).deserialize(&mut json),
        None => serde::Deserialize::deserialize(&mut json).map(|IgnoredAny| None),
    };
    let raw = raw.and_then(|raw| json.end().map(|()| raw)).map_err(|error| of_json(&error))?;
    let (Some(raw), Some(field)) = (raw, field) else { return Ok(None) };
    match raw.get().as_bytes().first() {
        Some(b'"') => serde_json::from_str::<String>(raw.get())
            .map(|key| Some(Bytes::from(key)))
            .map_err(|error| of_json(&error)),
        Some(b'n') => Ok(None),
        Some(b'{' | b'[') | None => Err(LineError::Key(field.to_owned())),
        Some(_) => Ok(Some(Bytes::copy_from_slice(raw.get().as_bytes()))),
    }
}

fn of_json(error: &serde_json::Error) -> LineError {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or(&text).to_owned();
    LineError::Json { reason, column: error.column() }
}

/// Reads any JSON, and keeps the text of one field of the outermost object.
struct FieldOf<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for FieldOf<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FieldOf<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(is_it) = map.next_key_seed(Is(self.0))? {
            if is_it {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// Whether a field's name, its escapes resolved, is this.
struct Is<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<bool, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(line: &str) -> Result<Option<String>, LineError> {
        key_of(line.as_bytes(), Some("k")).map(|key| key.map(|key| String::from_utf8(key.to_vec()).unwrap()))
    }

    fn some(text: &str) -> Result<Option<String>, LineError> {
        Ok(Some(text.to_owned()))
    }

    #[test]
    fn a_key_is_what_the_field_says() {
        assert_eq!(key(r#"{"a":1,"k":"N14228"}"#), some("N14228"));
        assert_eq!(key(r#"{"k":""}"#), some(""));
        assert_eq!(key(r#"{"k":"a\"b\u00e9\n"}"#), some("a\"bé\n"));
        assert_eq!(key(r#"{"k":true}"#), some("true"));
        assert_eq!(key(r#"{"k":null}"#), Ok(None));
        assert_eq!(key(r#"{"a":{"k":1}}"#), Ok(None));
        assert_eq!(key(r#"{"k":1,"k":2}"#), some("2"));
        assert_eq!(key(r#"{"\u006b":1}"#), some("1"));
        assert_eq!(key("  {\"k\" : 7 }\r"), some("7"));
    }

    #[test]
    fn a_number_keeps_its_text() {
        for number in ["0", "-0", "1.0", "1.50", "1e3", "1E+3", "123456789012345678901234567890"] {
            assert_eq!(key(&format!(r#"{{"k":{number}}}"#)), some(number));
        }
    }

    #[test]
    fn lines_that_are_no_object_have_no_key() {
        for line in ["1", "-1", "1.5", "\"k\"", "null", "true", "[{\"k\":1}]", "{}"] {
            assert_eq!(key(line), Ok(None), "{line}");
        }
    }

    #[test]
    fn a_key_is_one_value() {
        assert_eq!(key(r#"{"k":[1]}"#), Err(LineError::Key("k".into())));
        assert_eq!(key(r#"{"k":{}}"#), Err(LineError::Key("k".into())));
    }

    #[test]
    fn a_broken_line_says_where() {
        let Err(LineError::Json { column, .. }) = key(r#"{"k":1,}"#) else { panic!("no JSON") };
        assert_eq!(column, 8);
        for bad in
            ["{", "{\"k\":1", "{\"k\":1}}", "{\"k\":1} {}", "nul", "{'k':1}", "\u{feff}{}", "{\"k\":01}"]
        {
            assert!(matches!(key(bad), Err(LineError::Json { .. })), "{bad}");
            assert!(matches!(key_of(bad.as_bytes(), None), Err(LineError::Json { .. })), "{bad}");
        }
        assert_eq!(key_of(b"{\"a\":\"\xff\"}", None), Err(LineError::Utf8(7)));
    }

    #[test]
    fn deep_nesting_is_no_way_to_the_end_of_the_stack() {
        let deep = "[".repeat(200_000);
        assert!(key(&deep).is_err());
        let inside = format!("{{\"a\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(key_of(inside.as_bytes(), None), Ok(None));
    }

    proptest! {
        /// What another reader of JSON says of the same line.
        #[test]
        fn agrees_with_serde_json(text in r#"[{}\[\]",:0-9a-k \\eE+.-]{0,24}"#) {
            let expected = serde_json::from_str::<serde_json::Value>(&text).is_ok();
            // A number that no f64 holds is JSON all the same.
            if expected {
                prop_assert!(key_of(text.as_bytes(), None).is_ok());
            } else if key_of(text.as_bytes(), None).is_ok() {
                let raw = serde_json::from_str::<Box<RawValue>>(&text);
                prop_assert!(raw.is_ok(), "{text} was taken");
            }
        }

        #[test]
        fn a_string_key_comes_back(text in ".*") {
            let line = serde_json::to_string(&serde_json::json!({ "a": 1, "k": text })).unwrap();
            prop_assert_eq!(key(&line), some(&text));
        }
    }
}
