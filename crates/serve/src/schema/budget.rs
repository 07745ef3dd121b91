//! The cost of a check, counted beforehand: the number of times that parts of the schema are applied to parts of the
//! payload.
//!
//! The count takes every branch that a validator may take, so it is an upper bound. It knows the keywords that apply other
//! schemas. A schema that refers to its parts by other names than their place is not accepted.

use serde_json::Value;

/// The greatest size of a schema in bytes.
const LARGEST: usize = 256 * 1024;
/// The greatest number of references: compiling follows each of them once, possibly nested.
pub(super) const MOST_REFERENCES: usize = 1_000;
/// The greatest number of regular expressions.
const MOST_PATTERNS: usize = 256;
/// The greatest depth of nested schemas, applied to the payload's own depth.
const DEEPEST: u32 = 500;
/// The budget of all checks of one request.
const MOST: u64 = 500_000;
/// The additional budget for each byte of payload.
const FOR_A_BYTE: u64 = 4;
/// The greatest number of items that `uniqueItems` compares in pairs.
const MOST_COMPARED: usize = 16;
/// Keywords that name a part of a schema. Only the whole schema may have them.
const NAMES: [&str; 4] = ["$id", "$anchor", "$dynamicAnchor", "$recursiveAnchor"];
/// References by name, which the count does not follow.
const REFERENCES_BY_NAME: [&str; 2] = ["$dynamicRef", "$recursiveRef"];

/// The remaining budget of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CheckBudget(u64);

impl Default for CheckBudget {
    fn default() -> Self {
        Self(MOST)
    }
}

impl CheckBudget {
    /// Adds the budget for a payload of `bytes` bytes.
    pub(super) fn grant(&mut self, bytes: usize) {
        self.0 = self.0.saturating_add(FOR_A_BYTE.saturating_mul(bytes as u64));
    }

    pub(super) fn left(self) -> u64 {
        self.0
    }

    /// Takes the cost of a check. False if the budget is too small; then nothing remains for other checks.
    pub(super) fn spend(&mut self, schema: &Value, payload: &Value) -> bool {
        let mut count = CostCounter { root: schema, left: self.0 };
        let is_enough = count.visit(schema, payload, 0).is_some();
        self.0 = if is_enough { count.left } else { 0 };
        is_enough
    }
}

/// Checks that a schema can be compiled and its cost counted.
pub(super) fn accept(schema: &Value) -> Result<(), &'static str> {
    if schema.to_string().len() > LARGEST {
        return Err("it has more than 256 KiB");
    }
    if schema.get("$schema").and_then(Value::as_str).is_some_and(|draft| draft.contains("draft-04")) {
        return Err("it is of draft 4: expected draft 6 or later");
    }
    let (mut references, mut patterns) = (0, 0);
    let mut parts = vec![schema];
    while let Some(part) = parts.pop() {
        let Value::Object(keywords) = part else {
            parts.extend(part.as_array().into_iter().flatten());
            continue;
        };
        for (keyword, value) in keywords {
            let is_name = NAMES.contains(&keyword.as_str()) && !std::ptr::eq(part, schema);
            if value.is_string() && (is_name || REFERENCES_BY_NAME.contains(&keyword.as_str())) {
                return Err(
                    "it has $dynamicRef or $recursiveRef, or $id or $anchor within: expected references by place, #/$defs/…",
                );
            }
            references += usize::from(keyword == "$ref" && value.is_string());
            patterns += usize::from(keyword == "pattern" && value.is_string());
            patterns += value.as_object().filter(|_| keyword == "patternProperties").map_or(0, serde_json::Map::len);
        }
        parts.extend(keywords.values());
    }
    if references > MOST_REFERENCES {
        return Err("it has more than 1000 references");
    }
    if patterns > MOST_PATTERNS {
        return Err("it has more than 256 patterns");
    }
    Ok(())
}

struct CostCounter<'a> {
    root: &'a Value,
    left: u64,
}

impl CostCounter<'_> {
    fn pay(&mut self, cost: usize) -> Option<()> {
        self.left = self.left.checked_sub(cost as u64)?;
        Some(())
    }

    /// Returns `None` if the budget is exceeded.
    fn visit(&mut self, schema: &Value, value: &Value, depth: u32) -> Option<()> {
        self.pay(1)?;
        let Value::Object(keywords) = schema else { return Some(()) };
        // Most keywords cost less than a visit.
        self.pay(keywords.len() / 4)?;
        let depth = depth + 1;
        if depth > DEEPEST {
            return None;
        }
        // These keywords evaluate everything once more, to find the rest.
        let is_twice = ["unevaluatedProperties", "unevaluatedItems"].iter().any(|name| keywords.contains_key(*name));
        for (keyword, part) in keywords {
            self.in_place(keyword, part, value, depth)?;
            if is_twice {
                self.in_place(keyword, part, value, depth)?;
            }
            match value {
                Value::Object(members) => self.of_members(keywords, (keyword, part), members, depth)?,
                Value::Array(items) => {
                    self.of_items((keyword, part), items, depth)?;
                    if is_twice && keyword == "contains" {
                        self.of_items((keyword, part), items, depth)?;
                    }
                }
                Value::String(text) => self.of_text(keyword, text)?,
                _ => {}
            }
        }
        Some(())
    }

    /// Keywords that apply to the same value.
    fn in_place(&mut self, keyword: &str, part: &Value, value: &Value, depth: u32) -> Option<()> {
        match (keyword, part) {
            ("allOf" | "anyOf" | "oneOf", Value::Array(parts)) => {
                parts.iter().try_for_each(|part| self.visit(part, value, depth))
            }
            ("not" | "if" | "then" | "else", part) => self.visit(part, value, depth),
            ("dependentSchemas" | "dependencies", Value::Object(parts)) => {
                parts.values().try_for_each(|part| self.visit(part, value, depth))
            }
            ("$ref", Value::String(reference)) => {
                let root = self.root;
                self.visit(find(root, reference)?, value, depth)
            }
            ("const", expected) => self.compare(expected, value),
            ("enum", Value::Array(values)) => values.iter().try_for_each(|expected| self.compare(expected, value)),
            _ => Some(()),
        }
    }

    /// The cost of a comparison. Only values of the same kind and length are compared part by part.
    fn compare(&mut self, expected: &Value, value: &Value) -> Option<()> {
        self.pay(1)?;
        match (expected, value) {
            (Value::String(expected), Value::String(text)) if expected.len() == text.len() => self.pay(text.len() / 16),
            (Value::Array(expected), Value::Array(items)) if expected.len() == items.len() => {
                expected.iter().zip(items).try_for_each(|(expected, item)| self.compare(expected, item))
            }
            (Value::Object(expected), Value::Object(members)) if expected.len() == members.len() => {
                expected.iter().try_for_each(|(name, expected)| {
                    self.pay(name.len() / 16)?;
                    members.get(name).map_or(Some(()), |value| self.compare(expected, value))
                })
            }
            _ => Some(()),
        }
    }

    /// The cost of reading a whole value.
    fn read(&mut self, value: &Value, times: usize) -> Option<()> {
        self.pay(times)?;
        let of_text = |text: &str| (text.len() / 16).saturating_mul(times);
        match value {
            Value::String(text) => self.pay(of_text(text)),
            Value::Array(items) => items.iter().try_for_each(|item| self.read(item, times)),
            Value::Object(members) => members.iter().try_for_each(|(name, value)| {
                self.pay(of_text(name))?;
                self.read(value, times)
            }),
            _ => Some(()),
        }
    }

    fn of_text(&mut self, keyword: &str, text: &str) -> Option<()> {
        match keyword {
            "pattern" | "format" | "contentEncoding" | "contentMediaType" | "contentSchema" => self.pay(text.len()),
            // The validator counts the characters.
            "minLength" | "maxLength" => self.pay(text.len() / 4),
            _ => Some(()),
        }
    }

    fn of_members(
        &mut self,
        keywords: &Object,
        (keyword, part): (&str, &Value),
        members: &Object,
        depth: u32,
    ) -> Option<()> {
        match (keyword, part) {
            ("required", Value::Array(names)) => self.pay(names.len()),
            ("dependentRequired" | "dependencies", Value::Object(parts)) => {
                let names = |part: &Value| part.as_array().map_or(0, Vec::len).saturating_add(1);
                parts.values().try_for_each(|part| self.pay(names(part)))
            }
            ("properties", Value::Object(parts)) => {
                self.pay(parts.len())?;
                let there = parts.iter().filter_map(|(name, part)| Some((part, members.get(name)?)));
                there.into_iter().try_for_each(|(part, value)| self.visit(part, value, depth))
            }
            ("patternProperties", Value::Object(parts)) => members.iter().try_for_each(|(name, value)| {
                parts.values().try_for_each(|part| {
                    self.pay(name.len())?;
                    self.visit(part, value, depth)
                })
            }),
            ("additionalProperties" | "unevaluatedProperties", part) => {
                self.pay(members.len())?;
                // Each name without a property is matched with each pattern.
                let patterns = keywords.get("patternProperties").and_then(Value::as_object).map_or(0, Object::len);
                members.keys().try_for_each(|name| self.pay(name.len().saturating_mul(patterns)))?;
                let named = keywords.get("properties");
                let others = members.iter().filter(|(name, _)| named.is_none_or(|named| named.get(name).is_none()));
                others.into_iter().try_for_each(|(_, value)| self.visit(part, value, depth))
            }
            ("propertyNames", part) => members.keys().try_for_each(|name| {
                self.pay(name.len())?;
                self.visit(part, &Value::String(name.clone()), depth)
            }),
            _ => Some(()),
        }
    }

    fn of_items(&mut self, (keyword, part): (&str, &Value), items: &[Value], depth: u32) -> Option<()> {
        match (keyword, part) {
            ("prefixItems" | "items", Value::Array(parts)) => {
                parts.iter().zip(items).try_for_each(|(part, item)| self.visit(part, item, depth))
            }
            ("items" | "additionalItems" | "unevaluatedItems" | "contains", part) => {
                items.iter().try_for_each(|item| self.visit(part, item, depth))
            }
            // Items are hashed, or compared in pairs while they are few.
            ("uniqueItems", _) => items.iter().try_for_each(|item| self.read(item, MOST_COMPARED)),
            _ => Some(()),
        }
    }
}

type Object = serde_json::Map<String, Value>;

/// The part of a schema that a reference points to.
fn find<'a>(root: &'a Value, reference: &str) -> Option<&'a Value> {
    let place = reference.strip_prefix('#')?;
    if !place.contains('%') {
        return root.pointer(place);
    }
    // In a URL fragment a plus is a plus, and not a space.
    let place = place.replace('+', "%2B");
    let (decoded, _) = form_urlencoded::parse(place.as_bytes()).next()?;
    root.pointer(&decoded)
}
