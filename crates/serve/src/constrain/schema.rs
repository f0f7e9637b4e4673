//! From a JSON schema to the form of its texts: compact JSON, one space allowed behind `:` and `,`.
//!
//! Properties come in the schema's order, optional ones may be left out, and none come that the schema does not
//! name. Every text has the schema's form; keywords that cannot be held to are refused by name.

use super::grammar::{ByteSet, Form, Grammar};
use super::json::{Json, Members};
use std::collections::HashMap;

/// Repetitions are laid out one by one up to here.
const MOST: usize = 2000;

/// Digits of a number before its point, and behind it: what fits 64 bits, and more than a double can hold. Without
/// an end to them a text could be one number only, and one that no reader takes.
const DIGITS: usize = 18;

/// Most places of a grammar.
const LARGEST: usize = 500_000;

/// Keywords without influence on the form.
const NOTES: [&str; 11] = [
    "title",
    "description",
    "default",
    "examples",
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
    "deprecated",
    "readOnly",
];

/// Why a schema cannot be held to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SchemaError {
    #[error("at {place}: the keyword `{keyword}` is not supported here")]
    Keyword { place: String, keyword: String },
    #[error("at {place}: {what}")]
    Wrong { place: String, what: String },
}

/// The grammar of the texts of `schema`.
///
/// # Errors
/// When the schema is wrong or says what cannot be held to.
pub(crate) fn compile(schema: &Json) -> Result<Grammar, SchemaError> {
    let mut compiler = Compiler::new(schema);
    let form = compiler.form(schema, "#")?;
    compiler.rules[ROOT] = form;
    if compiler.rules.iter().map(Form::places).fold(0, usize::saturating_add) > LARGEST {
        let what = format!("its repetitions need more than {LARGEST} places; lower the sizes");
        return Err(SchemaError::Wrong { place: "#".to_owned(), what });
    }
    Ok(Grammar::new(&compiler.rules))
}

/// Any JSON object.
pub(crate) fn any_object() -> Grammar {
    let mut compiler = Compiler::new(&Json::Null);
    compiler.rules[ROOT] = object_of(Form::Rule(VALUE));
    Grammar::new(&compiler.rules)
}

/// Rules that every grammar has.
const ROOT: usize = 0;
const VALUE: usize = 1;
const CHARACTER: usize = 2;

struct Compiler<'a> {
    root: &'a Json,
    rules: Vec<Form>,
    /// Rules of schemas that were referred to.
    references: HashMap<String, usize>,
}

impl<'a> Compiler<'a> {
    fn new(root: &'a Json) -> Self {
        let value = Form::Any(vec![
            object_of(Form::Rule(VALUE)),
            array_of(Form::Rule(VALUE), 0, None),
            string(0, None),
            number(),
            text("true"),
            text("false"),
            text("null"),
        ]);
        Self { root, rules: vec![text(""), value, character()], references: HashMap::new() }
    }

    fn form(&mut self, schema: &Json, place: &str) -> Result<Form, SchemaError> {
        let wrong = |what: &str| SchemaError::Wrong { place: place.to_owned(), what: what.to_owned() };
        let object = match schema {
            Json::Bool(true) => return Ok(Form::Rule(VALUE)),
            Json::Bool(false) => return Err(wrong("false allows nothing")),
            Json::Object(object) => object,
            _ => return Err(wrong("a schema is an object or true")),
        };
        let only = |keywords: &[&str]| check(object, keywords, place);
        if let Some(reference) = object.get("$ref") {
            only(&["$ref"])?;
            let path = reference.as_str().ok_or_else(|| wrong("`$ref` must be a string"))?;
            return self.reference(path, place);
        }
        if let Some(value) = object.get("const") {
            only(&["const", "type"])?;
            return Ok(text(&value.to_string()));
        }
        if let Some(values) = object.get("enum") {
            only(&["enum", "type"])?;
            let values = values.as_list().filter(|values| !values.is_empty());
            let values = values.ok_or_else(|| wrong("`enum` must be a list of values"))?;
            return Ok(Form::Any(values.iter().map(|value| text(&value.to_string())).collect()));
        }
        for keyword in ["anyOf", "oneOf", "allOf"] {
            let Some(schemas) = object.get(keyword) else { continue };
            only(&[keyword])?;
            let schemas = schemas.as_list().filter(|schemas| !schemas.is_empty());
            let schemas = schemas.ok_or_else(|| wrong("a list of schemas is needed"))?;
            if keyword == "allOf" && schemas.len() > 1 {
                return Err(wrong("`allOf` of several schemas is not supported here"));
            }
            let forms = schemas
                .iter()
                .enumerate()
                .map(|(index, schema)| self.form(schema, &format!("{place}/{keyword}/{index}")));
            return Ok(Form::Any(forms.collect::<Result<_, _>>()?));
        }
        match object.get("type") {
            None if object.get("properties").is_some() => self.typed("object", object, place),
            None if object.get("items").is_some() => self.typed("array", object, place),
            None => only(&[]).map(|()| Form::Rule(VALUE)),
            Some(Json::String(kind)) => self.typed(kind, object, place),
            Some(Json::List(kinds)) if !kinds.is_empty() => {
                let forms = kinds.iter().map(|kind| match kind.as_str() {
                    // Each type heeds its own keywords only.
                    Some(kind) => self.typed(kind, &relevant(object, kind), place),
                    None => Err(wrong("`type` must be a name or a list of names")),
                });
                Ok(Form::Any(forms.collect::<Result<_, _>>()?))
            }
            Some(_) => Err(wrong("`type` must be a name or a list of names")),
        }
    }

    fn typed(&mut self, kind: &str, object: &Members, place: &str) -> Result<Form, SchemaError> {
        check(object, keywords_of(kind), place)?;
        let size = |keyword: &str| size(object, keyword, place);
        match kind {
            "object" => self.object(object, place),
            "array" => {
                let items = object.get("items").unwrap_or(&Json::Bool(true));
                let items = self.form(items, &format!("{place}/items"))?;
                // A rule of its own: lists in lists would double at every level.
                let items = self.rule(items);
                let (least, most) = (size("minItems")?.unwrap_or(0), size("maxItems")?);
                in_order(least, most, place)?;
                Ok(array_of(items, least, most))
            }
            "string" => {
                let (least, most) = (size("minLength")?.unwrap_or(0), size("maxLength")?);
                in_order(least, most, place)?;
                Ok(string(least, most))
            }
            "integer" => Ok(integer()),
            "number" => Ok(number()),
            "boolean" => Ok(Form::Any(vec![text("true"), text("false")])),
            "null" => Ok(text("null")),
            _ => Err(SchemaError::Wrong {
                place: place.to_owned(),
                what: format!("there is no type `{kind}`"),
            }),
        }
    }

    fn object(&mut self, object: &Members, place: &str) -> Result<Form, SchemaError> {
        let wrong = |what: String| SchemaError::Wrong { place: place.to_owned(), what };
        let empty = Members::default();
        let properties = match object.get("properties") {
            None => &empty,
            Some(Json::Object(properties)) => properties,
            Some(_) => return Err(wrong("`properties` must be an object".into())),
        };
        let required = match object.get("required") {
            None => Vec::new(),
            Some(names) => names
                .as_list()
                .and_then(|names| names.iter().map(Json::as_str).collect::<Option<Vec<_>>>())
                .ok_or_else(|| wrong("`required` must be a list of names".into()))?,
        };
        if let Some(name) = required.iter().find(|name| properties.get(name).is_none()) {
            return Err(wrong(format!("`{name}` is required, but no property")));
        }
        if properties.0.is_empty() {
            return match object.get("additionalProperties") {
                Some(Json::Bool(false)) => Ok(text("{}")),
                None => Ok(object_of(Form::Rule(VALUE))),
                Some(schema) => {
                    let value = self.form(schema, &format!("{place}/additionalProperties"))?;
                    Ok(object_of(self.rule(value)))
                }
            };
        }
        // From the last property to the first: what follows when none came before, and when some did. Each is a
        // rule of its own, so that optional properties do not double what follows them.
        let comma = || Form::All(vec![text(","), space()]);
        let mut rest = [text("}"), text("}")];
        for (name, schema) in properties.0.iter().rev() {
            let value = self.form(schema, &format!("{place}/properties/{name}"))?;
            let key = Json::String(name.clone());
            self.rules.push(Form::All(vec![text(&format!("{key}:")), space(), value]));
            let property = Form::Rule(self.rules.len() - 1);
            let after = self.rule(rest[1].clone());
            let with =
                [Form::All(vec![property.clone(), after.clone()]), Form::All(vec![comma(), property, after])];
            rest = if required.contains(&name.as_str()) {
                with
            } else {
                let [first, later] = with;
                let [none, some] = rest;
                [Form::Any(vec![first, self.rule(none)]), Form::Any(vec![later, self.rule(some)])]
            };
        }
        let [first, _] = rest;
        Ok(Form::All(vec![text("{"), first]))
    }

    fn rule(&mut self, form: Form) -> Form {
        if matches!(form, Form::Text(_) | Form::Rule(_)) {
            return form;
        }
        self.rules.push(form);
        Form::Rule(self.rules.len() - 1)
    }

    fn reference(&mut self, path: &str, place: &str) -> Result<Form, SchemaError> {
        if let Some(&rule) = self.references.get(path) {
            return Ok(Form::Rule(rule));
        }
        let wrong = |what: String| SchemaError::Wrong { place: place.to_owned(), what };
        let target = path
            .strip_prefix('#')
            .and_then(|pointer| self.root.pointer(pointer))
            .ok_or_else(|| wrong(format!("`{path}` leads nowhere within this schema")))?;
        // Known before its form is: it may refer to itself.
        let rule = self.rules.len();
        self.rules.push(text(""));
        self.references.insert(path.to_owned(), rule);
        let form = self.form(target, path)?;
        if matches!(form, Form::Rule(same) if same == rule) {
            return Err(wrong(format!("`{path}` refers to itself and says nothing else")));
        }
        self.rules[rule] = form;
        Ok(Form::Rule(rule))
    }
}

fn keywords_of(kind: &str) -> &'static [&'static str] {
    match kind {
        "object" => &["type", "properties", "required", "additionalProperties"],
        "array" => &["type", "items", "minItems", "maxItems"],
        "string" => &["type", "minLength", "maxLength"],
        _ => &["type"],
    }
}

/// `object` without the keywords of other types.
fn relevant(object: &Members, kind: &str) -> Members {
    let of_others = |keyword: &str| {
        let others = ["object", "array", "string"].into_iter().filter(|other| *other != kind);
        others.flat_map(keywords_of).any(|other| *other == keyword)
    };
    let own = keywords_of(kind);
    let kept = object.0.iter().filter(|(keyword, _)| own.contains(&keyword.as_str()) || !of_others(keyword));
    Members(kept.cloned().collect())
}

fn check(object: &Members, keywords: &[&str], place: &str) -> Result<(), SchemaError> {
    let known = |keyword: &str| keywords.contains(&keyword) || NOTES.contains(&keyword);
    match object.names().find(|keyword| !known(keyword)) {
        Some(keyword) => Err(SchemaError::Keyword { place: place.to_owned(), keyword: keyword.to_owned() }),
        None => Ok(()),
    }
}

fn size(object: &Members, keyword: &str, place: &str) -> Result<Option<usize>, SchemaError> {
    match object.get(keyword) {
        None => Ok(None),
        Some(value) => match value.as_size() {
            Some(size) if size <= MOST as u64 => Ok(Some(size as usize)),
            _ => Err(SchemaError::Wrong {
                place: place.to_owned(),
                what: format!("`{keyword}` must be a whole number from 0 to {MOST}"),
            }),
        },
    }
}

fn in_order(least: usize, most: Option<usize>, place: &str) -> Result<(), SchemaError> {
    match most {
        Some(most) if most < least => Err(SchemaError::Wrong {
            place: place.to_owned(),
            what: format!("at least {least} and at most {most} is impossible"),
        }),
        _ => Ok(()),
    }
}

fn text(text: &str) -> Form {
    Form::Text(text.to_owned())
}

fn space() -> Form {
    text(" ").optional()
}

fn bytes(first: u8, last: u8) -> Form {
    Form::Bytes(ByteSet::range(first, last))
}

/// At least `least` and at most [`DIGITS`] digits.
fn digits(least: usize) -> Form {
    Form::Repeat(Box::new(bytes(b'0', b'9')), least, Some(DIGITS))
}

/// Digits of a whole number, the first of which is no zero.
fn above_zero() -> Form {
    Form::All(vec![bytes(b'1', b'9'), Form::Repeat(Box::new(bytes(b'0', b'9')), 0, Some(DIGITS - 1))])
}

/// A whole number that fits 64 bits.
fn integer() -> Form {
    Form::Any(vec![text("0"), Form::All(vec![text("-").optional(), above_zero()])])
}

/// A number within the range of a double: below 1e117.
fn number() -> Form {
    let whole = Form::All(vec![text("-").optional(), Form::Any(vec![text("0"), above_zero()])]);
    let fraction = Form::All(vec![text("."), digits(1)]).optional();
    let sign = Form::Bytes(ByteSet::of(b"+-")).optional();
    let power = Form::Repeat(Box::new(bytes(b'0', b'9')), 1, Some(2));
    let exponent = Form::All(vec![Form::Bytes(ByteSet::of(b"eE")), sign, power]).optional();
    Form::All(vec![whole, fraction, exponent])
}

/// A string of `least` to `most` characters.
fn string(least: usize, most: Option<usize>) -> Form {
    let characters = Form::Repeat(Box::new(Form::Rule(CHARACTER)), least, most);
    Form::All(vec![text("\""), characters, text("\"")])
}

/// A character of a string: well-formed UTF-8 (Unicode's table 3-7), or an escape.
fn character() -> Form {
    let tail = || bytes(0x80, 0xbf);
    let hex = || Form::Bytes(ByteSet::of(b"0123456789abcdefABCDEF"));
    // No surrogates: they come in pairs only, and no character needs them.
    let below_surrogates =
        Form::All(vec![Form::Bytes(ByteSet::of(b"0123456789abcefABCEF")), hex(), hex(), hex()]);
    let d = Form::All(vec![Form::Bytes(ByteSet::of(b"dD")), bytes(b'0', b'7'), hex(), hex()]);
    let unicode = Form::All(vec![text("u"), Form::Any(vec![below_surrogates, d])]);
    let escape = Form::Any(vec![Form::Bytes(ByteSet::of(b"\"\\/bfnrt")), unicode]);
    Form::Any(vec![
        Form::Bytes(ByteSet::range(0x20, 0x7f).without(b"\"\\")),
        Form::All(vec![text("\\"), escape]),
        Form::All(vec![bytes(0xc2, 0xdf), tail()]),
        Form::All(vec![Form::Bytes(ByteSet::of(&[0xe0])), bytes(0xa0, 0xbf), tail()]),
        Form::All(vec![Form::Bytes(ByteSet::range(0xe1, 0xef).without(&[0xed])), tail(), tail()]),
        Form::All(vec![Form::Bytes(ByteSet::of(&[0xed])), bytes(0x80, 0x9f), tail()]),
        Form::All(vec![Form::Bytes(ByteSet::of(&[0xf0])), bytes(0x90, 0xbf), tail(), tail()]),
        Form::All(vec![bytes(0xf1, 0xf3), tail(), tail(), tail()]),
        Form::All(vec![Form::Bytes(ByteSet::of(&[0xf4])), bytes(0x80, 0x8f), tail(), tail()]),
    ])
}

/// `least` to `most` items, with commas between.
fn list(item: Form, least: usize, most: Option<usize>) -> Form {
    if most == Some(0) {
        return text("");
    }
    let next = Form::All(vec![text(","), space(), item.clone()]);
    let rest = Form::Repeat(Box::new(next), least.saturating_sub(1), most.map(|most| most - 1));
    let some = Form::All(vec![item, rest]);
    if least == 0 { some.optional() } else { some }
}

fn array_of(item: Form, least: usize, most: Option<usize>) -> Form {
    Form::All(vec![text("["), list(item, least, most), text("]")])
}

fn object_of(value: Form) -> Form {
    let pair = Form::All(vec![string(0, None), text(":"), space(), value]);
    Form::All(vec![text("{"), list(pair, 0, None), text("}")])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constrain::grammar::Frames;
    use serde_json::json as value;

    fn json(value: &serde_json::Value) -> Json {
        serde_json::from_str(&value.to_string()).unwrap()
    }

    fn accepts(schema: &serde_json::Value, text: &str) -> bool {
        let grammar = compile(&json(schema)).unwrap();
        let mut frames = Frames::default();
        let mut state = grammar.start(&mut frames);
        for byte in text.bytes() {
            state = grammar.step(&state, byte, &mut frames);
        }
        grammar.may_end(&state)
    }

    #[test]
    fn what_a_schema_says_is_held_to() {
        let number = value!({"type": "number"});
        for good in ["0", "-12", "3.25", "1e5", "-0.5E-3", "123456789012345678e99"] {
            assert!(accepts(&number, good), "{good}");
        }
        for bad in ["01", "+1", ".5", "1.", "1e", "", "--1", "1e999", "1234567890123456789"] {
            assert!(!accepts(&number, bad), "{bad}");
        }
        let integer = value!({"type": "integer"});
        for good in ["0", "-1", "10", "999999999999999999"] {
            assert!(accepts(&integer, good), "{good}");
        }
        for bad in ["-0", "00", "1.0", "1e2", "1000000000000000000"] {
            assert!(!accepts(&integer, bad), "{bad}");
        }
        let object = value!({
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}, "c": {"type": "null"}},
            "required": ["b"],
        });
        for good in [r#"{"b":true}"#, r#"{"a": 1, "b": false}"#, r#"{"a":1,"b":true,"c":null}"#] {
            assert!(accepts(&object, good), "{good}");
        }
        for bad in ["{}", r#"{"a":1}"#, r#"{"b":true,"a":1}"#, r#"{"b":true,}"#, r#"{"b":true,"d":1}"#] {
            assert!(!accepts(&object, bad), "{bad}");
        }
        let string = value!({"type": ["string", "null"], "maxLength": 2});
        for good in ["\"\"", "\"你好\"", "\"\\n\\u00e4\"", "null", "\"\u{1f600}\""] {
            assert!(accepts(&string, good), "{good}");
        }
        for bad in ["\"abc\"", "\"\n\"", "\"\\ud800\"", "\"", "\"\\x\""] {
            assert!(!accepts(&string, bad), "{bad}");
        }
    }

    #[test]
    fn keywords_that_cannot_be_held_to_are_refused_by_name_and_place() {
        let error =
            compile(&json(&value!({"properties": {"a": {"type": "integer", "minimum": 3}}}))).unwrap_err();
        assert_eq!(error.to_string(), "at #/properties/a: the keyword `minimum` is not supported here");
        for schema in [
            value!(3),
            value!(false),
            value!({"type": "strange"}),
            value!({"type": "string", "pattern": "a+"}),
            value!({"type": "array", "minItems": 3, "maxItems": 2}),
            value!({"$ref": "#/nowhere"}),
            value!({"$ref": "#"}),
            value!({"enum": []}),
            value!({"type": "object", "required": ["x"]}),
            value!({"anyOf": vec![value!({"type": "string", "maxLength": 2000}); 200]}),
        ] {
            assert!(compile(&json(&schema)).is_err(), "{schema}");
        }
    }

    #[test]
    fn lists_and_objects_in_each_other_do_not_double_the_grammar() {
        let schema = (0..30).fold(value!({"type": "null"}), |inner, _| {
            value!({"type": "array", "maxItems": 3, "items": {"type": "object", "additionalProperties": inner}})
        });
        assert!(compile(&json(&schema)).unwrap().places() < 10_000);
        assert!(accepts(&schema, "[{}, {}]"));
    }
}
