//! Checks JSON against the part of JSON Schema that `asyncapi.yaml` and `openapi.yaml` use.
//!
//! Written out because the validators there are bring licences that `deny.toml` does not allow (MIT-0). It
//! knows few words and fails at all others, so a schema that says more than is checked is noticed.

use serde_json::Value;

/// What says nothing about a value, or in a language of its own.
const ANNOTATIONS: [&str; 6] = ["description", "summary", "example", "format", "default", "pattern"];

/// Why the value does not fit the schema at `path` of the document, if it does not.
pub(crate) fn misfit(document: &Value, schema: &Value, value: &Value) -> Option<String> {
    let keywords = schema.as_object().expect("a schema is an object");
    keywords.iter().find_map(|(keyword, rule)| {
        let found = check(document, schema, keyword, rule, value);
        found.map(|found| format!("{keyword} {rule}: {found}"))
    })
}

fn check(document: &Value, schema: &Value, keyword: &str, rule: &Value, value: &Value) -> Option<String> {
    let unless = |fits: bool| (!fits).then(|| value.to_string());
    let list = || rule.as_array().expect("a list");
    let number = || rule.as_u64().expect("a number");
    match keyword {
        "$ref" => misfit(document, resolve(document, rule), value),
        "allOf" => list().iter().find_map(|part| misfit(document, part, value)),
        "oneOf" => {
            let fitting = list().iter().filter(|part| misfit(document, part, value).is_none()).count();
            unless(fitting == 1)
        }
        "propertyNames" => None,
        "type" => match rule {
            Value::Array(types) => unless(types.iter().any(|word| is_a(word, value))),
            word => unless(is_a(word, value)),
        },
        "const" => unless(value == rule),
        "enum" => unless(list().contains(value)),
        "minimum" => unless(value.as_i64().is_none_or(|n| n >= rule.as_i64().expect("a number"))),
        "maximum" => unless(value.as_i64().is_none_or(|n| n <= rule.as_i64().expect("a number"))),
        "minLength" => unless(value.as_str().is_none_or(|text| text.chars().count() as u64 >= number())),
        "maxLength" => unless(value.as_str().is_none_or(|text| text.chars().count() as u64 <= number())),
        "minItems" => unless(value.as_array().is_none_or(|items| items.len() as u64 >= number())),
        "maxItems" => unless(value.as_array().is_none_or(|items| items.len() as u64 <= number())),
        "items" => value.as_array()?.iter().find_map(|item| misfit(document, rule, item)),
        "required" => {
            list().iter().find_map(|name| unless(value.get(name.as_str().expect("a name")).is_some()))
        }
        "properties" => rule.as_object().expect("an object").iter().find_map(|(name, schema)| {
            let found = misfit(document, schema, value.get(name)?);
            found.map(|found| format!("{name}: {found}"))
        }),
        "additionalProperties" if rule.is_object() => {
            let known = |name: &str| schema["properties"].get(name).is_some();
            let mut others = value.as_object()?.iter().filter(|(name, _)| !known(name));
            others.find_map(|(_, other)| misfit(document, rule, other))
        }
        "additionalProperties" => {
            assert_eq!(rule, false, "nothing else is known");
            let known = |name: &String| schema["properties"].get(name).is_some();
            unless(value.as_object().is_none_or(|members| members.keys().all(known)))
        }
        keyword => {
            assert!(ANNOTATIONS.contains(&keyword), "the schema says more than is checked: {keyword}");
            None
        }
    }
}

/// What a reference inside the document stands for.
pub(crate) fn resolve<'a>(document: &'a Value, reference: &Value) -> &'a Value {
    let reference = reference.as_str().expect("a reference is a text");
    let pointer = reference.strip_prefix('#').expect("references stay in the document");
    document.pointer(pointer).unwrap_or_else(|| panic!("nothing is at {reference}"))
}

fn is_a(word: &Value, value: &Value) -> bool {
    match word.as_str() {
        Some("object") => value.is_object(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("array") => value.is_array(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        _ => panic!("unknown type {word}"),
    }
}

#[test]
fn the_checker_can_fail() {
    use serde_json::json;
    let document = json!({ "a": { "type": "string", "maxLength": 2 } });
    let schema = json!({
        "type": "object",
        "required": ["x"],
        "additionalProperties": false,
        "properties": {
            "x": { "$ref": "#/a" },
            "y": { "type": ["integer", "null"], "minimum": 1, "maximum": 2 },
            "z": { "enum": ["p", "q"] },
            "w": { "allOf": [{ "type": "string" }, { "const": "w" }] },
        },
    });
    let check = |value: Value, fits: bool| {
        assert_eq!(misfit(&document, &schema, &value).is_none(), fits, "{value}");
    };
    check(json!({ "x": "ab", "y": 1, "z": "p", "w": "w" }), true);
    check(json!({ "x": "éé", "y": null }), true);
    check(json!([]), false);
    check(json!({}), false);
    check(json!({ "x": "abc" }), false);
    check(json!({ "x": 1 }), false);
    check(json!({ "x": "a", "v": 1 }), false);
    check(json!({ "x": "a", "y": 0 }), false);
    check(json!({ "x": "a", "y": 3 }), false);
    check(json!({ "x": "a", "y": 1.5 }), false);
    check(json!({ "x": "a", "y": "1" }), false);
    check(json!({ "x": "a", "z": "r" }), false);
    check(json!({ "x": "a", "w": "x" }), false);
}
