//! One text field out of a JSON line, without building the rest of the object.

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use std::fmt;

/// The text, or what is wrong with the line.
pub(crate) fn text_field(line: &[u8], field: &str) -> Result<String, String> {
    let line = std::str::from_utf8(line)
        .map_err(|error| format!("not UTF-8 at byte {} of it", error.valid_up_to()))?;
    let mut deserializer = serde_json::Deserializer::from_str(line);
    let text = Field(field).deserialize(&mut deserializer).map_err(|error| describe(&error))?;
    deserializer.end().map_err(|error| describe(&error))?;
    Ok(text)
}

/// serde_json counts lines within the line; only the column tells something.
fn describe(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let message = text.split(" at line ").next().unwrap_or(&text);
    if error.is_data() {
        message.to_owned()
    } else {
        format!("not JSON at column {}: {message}", error.column())
    }
}

struct Field<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = String;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = String;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "an object with the text field {:?}", self.0)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<String, A::Error> {
        let (mut text, mut others) = (None, Vec::new());
        while let Some(key) = map.next_key::<String>()? {
            if key == self.0 {
                text = Some(map.next_value::<String>()?);
            } else {
                map.next_value::<IgnoredAny>()?;
                others.push(key);
            }
        }
        text.ok_or_else(|| A::Error::custom(format!("no field {:?}; its fields are {others:?}", self.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_is_found_among_others() {
        let line = br#"{"id": [1, {"text": 2}], "text": "a\nb \u00e9", "meta": null}"#;
        assert_eq!(text_field(line, "text").unwrap(), "a\nb é");
    }

    #[test]
    fn each_bad_line_says_what_is_wrong() {
        let cases: [(&[u8], &str); 7] = [
            (b"{\"text\": ", "not JSON at column 9"),
            (b"", "not JSON"),
            (b"{\"body\": \"x\"}", "no field \"text\"; its fields are [\"body\"]"),
            (b"{\"text\": 5}", "expected a string"),
            (b"[\"text\"]", "expected an object with the text field \"text\""),
            (b"{\"text\": \"a\xff\"}", "not UTF-8 at byte 11"),
            (b"{\"text\": \"a\"} {}", "trailing characters"),
        ];
        for (line, expected) in cases {
            let message = text_field(line, "text").unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }
}
