//! Where Python's spelling differs from the engine's: printed values, JSON, and a few methods.

use std::fmt::Write;

use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Error, ErrorKind, Output, State, Value};

/// JSON as the engine's values, keys in their order.
pub(super) fn from_json(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => Value::from(value),
            (None, Some(value)) => Value::from(value),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::from(items.iter().map(from_json).collect::<Vec<Value>>()),
        Json::Object(fields) => from_fields(fields.iter()),
    }
}

/// A map of named JSON values.
pub(super) fn from_fields<'a>(fields: impl Iterator<Item = (&'a String, &'a serde_json::Value)>) -> Value {
    Value::from_pairs(fields.map(|(name, value)| (Value::from(name.as_str()), from_json(value))))
}

/// Values nested deeper than this are not printed: conversations nest a handful of levels.
const MAX_DEPTH: usize = 100;

/// What one entry of a map costs beside its key and value: a look-up and some allocations.
const ENTRY_STEPS: u64 = 4;

fn too_deep() -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("the value is nested deeper than {MAX_DEPTH} levels"))
}

/// Prints a value as Python's `str` does: text as it is, `None`, `True`, `1.0`, `['a', {'b': 1}]`.
pub(super) fn write_value(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    let result = match value.kind() {
        ValueKind::Undefined => Ok(()),
        ValueKind::String | ValueKind::Bytes => {
            return minijinja::escape_formatter(out, state, value);
        }
        _ => {
            let text = to_text(state, value)?;
            out.write_str(&text)
        }
    };
    result.map_err(|error| Error::new(ErrorKind::WriteFailure, "output").with_source(error))
}

/// The `string` filter, in Python's spelling.
pub(super) fn string(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String => Ok(value.clone()),
        _ => Ok(Value::from(to_text(state, value)?)),
    }
}

/// Pays while it writes: a small value can be long as text, since lists may hold the same list many times over.
pub(super) fn to_text(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    let mut text = String::new();
    match value.kind() {
        ValueKind::Undefined => {}
        ValueKind::String => text.push_str(value.as_str().unwrap_or_default()),
        _ => repr(state, value, &mut text, 0)?,
    }
    Ok(text)
}

/// Pays for a value as it would be printed, and gives it back.
pub(super) fn pay_flat(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    fn pay(state: &State<'_, '_>, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(too_deep());
        }
        match value.kind() {
            ValueKind::String => state.consume_fuel(1 + value.as_str().map_or(0, str::len) as u64 / 64),
            ValueKind::Seq | ValueKind::Iterable => {
                state.consume_fuel(1)?;
                value.try_iter()?.try_for_each(|item| pay(state, &item, depth + 1))
            }
            ValueKind::Map => {
                state.consume_fuel(1)?;
                for key in value.try_iter()? {
                    state.consume_fuel(ENTRY_STEPS)?;
                    pay(state, &key, depth + 1)?;
                    pay(state, &value.get_item(&key)?, depth + 1)?;
                }
                Ok(())
            }
            _ => state.consume_fuel(1),
        }
    }
    if matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::Map) {
        pay(state, value, 0)?;
    }
    Ok(value.clone())
}

/// Pays for the items of a list, and gives it back.
pub(super) fn pay_length(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    if matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
        let Some(items) = value.len() else {
            return Err(Error::new(ErrorKind::InvalidOperation, "only lists of known length can be joined"));
        };
        state.consume_fuel(1 + items as u64)?;
    }
    Ok(value.clone())
}

/// Pays for going through a text once, and gives it back.
pub(super) fn pay_text(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        state.consume_fuel(text.len() as u64 / 64)?;
    }
    Ok(value.clone())
}

/// Gives back anything but lists.
pub(super) fn refuse_list(value: &Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            Err(Error::new(ErrorKind::InvalidOperation, "lists cannot be repeated in chat templates"))
        }
        _ => Ok(value.clone()),
    }
}

/// Python's `repr`.
fn repr(state: &State<'_, '_>, value: &Value, out: &mut String, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    state.consume_fuel(1 + value.as_str().map_or(0, str::len) as u64 / 64)?;
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => number(value, out),
        ValueKind::String => quote(value.as_str().unwrap_or_default(), out),
        // Namespaces, loops and functions have no contents of their own to show.
        _ if is_plain(value) => out.push_str(&value.to_string()),
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            for (index, item) in value.try_iter()?.enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                repr(state, &item, out, depth + 1)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (index, key) in value.try_iter()?.enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                state.consume_fuel(ENTRY_STEPS)?;
                repr(state, &key, out, depth + 1)?;
                out.push_str(": ");
                repr(state, &value.get_item(&key)?, out, depth + 1)?;
            }
            out.push('}');
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

/// True for objects of the engine that are neither lists nor maps.
fn is_plain(value: &Value) -> bool {
    !matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable)
}

/// A string literal as Python chooses its quotes.
fn quote(text: &str, out: &mut String) {
    let mark = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(mark);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == mark => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push(mark);
}

/// Numbers: integers plain; floats with the shortest digits that read back, `1.0`, `1e+16`, `1e-05`.
fn number(value: &Value, out: &mut String) {
    match f64::try_from(value.clone()) {
        Ok(float) if !value.is_integer() => {
            if float.is_nan() {
                out.push_str("nan");
            } else if float.is_infinite() {
                out.push_str(if float < 0.0 { "-inf" } else { "inf" });
            } else {
                // Rust changes to exponents at the same sizes, but writes them without sign and padding.
                let text = format!("{float:?}");
                match text.split_once('e') {
                    Some((digits, exponent)) => {
                        let (sign, exponent) = match exponent.strip_prefix('-') {
                            Some(exponent) => ('-', exponent),
                            None => ('+', exponent),
                        };
                        let _ = write!(out, "{digits}e{sign}{exponent:0>2}");
                    }
                    None => out.push_str(&text),
                }
            }
        }
        _ => out.push_str(&value.to_string()),
    }
}

/// How `json.dumps` was asked to write.
struct Json {
    ensure_ascii: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

/// The `tojson` filter as transformers defines it: `json.dumps` with `ensure_ascii=False`, no HTML escapes, keys in
/// their order.
pub(super) fn tojson(
    state: &State<'_, '_>,
    value: &Value,
    first: Option<Value>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    // The first positional argument is `ensure_ascii` in transformers, `indent` in Jinja2.
    let (ensure_ascii, indent) = match first {
        Some(first) if first.kind() == ValueKind::Bool => (first.is_true(), None),
        first => (false, first),
    };
    let ensure_ascii = kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(ensure_ascii);
    let indent = kwargs.get::<Option<Value>>("indent")?.or(indent).filter(|indent| !indent.is_none());
    let indent = match indent {
        None => None,
        Some(indent) => Some(match indent.as_str() {
            Some(text) if text.len() <= MAX_INDENT => text.to_string(),
            _ => {
                let width = usize::try_from(indent)?;
                " ".repeat(width.min(MAX_INDENT))
            }
        }),
    };
    let separators = kwargs.get::<Option<Value>>("separators")?.filter(|value| !value.is_none());
    let sort_keys = kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    kwargs.assert_all_used()?;
    let (item_separator, key_separator) = match separators {
        Some(pair) => {
            let mut parts = pair.try_iter()?.map(|part| part.to_string());
            match (parts.next(), parts.next(), parts.next()) {
                (Some(item), Some(key), None) => (item, key),
                _ => {
                    return Err(Error::new(ErrorKind::InvalidOperation, "separators must be a pair of strings"));
                }
            }
        }
        None if indent.is_some() => (",".into(), ": ".into()),
        None => (", ".into(), ": ".into()),
    };
    let json = Json { ensure_ascii, indent, item_separator, key_separator, sort_keys };
    let mut out = String::new();
    json.write(state, value, &mut out, 0)?;
    Ok(Value::from(out))
}

/// Wider indents than this say nothing but can fill memory.
const MAX_INDENT: usize = 16;

impl Json {
    fn write(&self, state: &State<'_, '_>, value: &Value, out: &mut String, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(too_deep());
        }
        let before = out.len();
        match value.kind() {
            ValueKind::Undefined | ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => {
                let mut text = String::new();
                number(value, &mut text);
                out.push_str(match text.as_str() {
                    "nan" => "NaN",
                    "inf" => "Infinity",
                    "-inf" => "-Infinity",
                    text => text,
                });
            }
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                out.push('[');
                let mut empty = true;
                for item in value.try_iter()? {
                    self.separate(&mut empty, out, depth + 1);
                    self.write(state, &item, out, depth + 1)?;
                }
                self.close(']', empty, out, depth);
                state.consume_fuel(1)?;
            }
            ValueKind::Map => {
                out.push('{');
                let mut empty = true;
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                for key in keys {
                    state.consume_fuel(ENTRY_STEPS)?;
                    self.separate(&mut empty, out, depth + 1);
                    match key.kind() {
                        ValueKind::String => self.string(key.as_str().unwrap_or_default(), out),
                        ValueKind::Bool | ValueKind::None | ValueKind::Number => {
                            out.push('"');
                            self.write(state, &key, out, depth + 1)?;
                            out.push('"');
                        }
                        kind => {
                            return Err(Error::new(
                                ErrorKind::BadSerialization,
                                format!("keys of JSON objects must be strings, not {kind}"),
                            ));
                        }
                    }
                    out.push_str(&self.key_separator);
                    self.write(state, &value.get_item(&key)?, out, depth + 1)?;
                }
                self.close('}', empty, out, depth);
                state.consume_fuel(1)?;
            }
            kind => {
                return Err(Error::new(
                    ErrorKind::BadSerialization,
                    format!("a value of type {kind} has no JSON form"),
                ));
            }
        }
        // Containers have paid for their items already; what they add themselves is small.
        if !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::Map) {
            state.consume_fuel(1 + (out.len() - before) as u64 / 64)?;
        }
        Ok(())
    }

    fn separate(&self, empty: &mut bool, out: &mut String, depth: usize) {
        if !std::mem::replace(empty, false) {
            out.push_str(&self.item_separator);
        }
        self.new_line(out, depth);
    }

    fn close(&self, bracket: char, empty: bool, out: &mut String, depth: usize) {
        if !empty {
            self.new_line(out, depth);
        }
        out.push(bracket);
    }

    fn new_line(&self, out: &mut String, depth: usize) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            for _ in 0..depth {
                out.push_str(indent);
            }
        }
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{C}' => out.push_str("\\f"),
                c if (c as u32) < 0x20 || self.ensure_ascii && (c as u32) > 0x7E => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// Methods of Python that `pycompat` lacks and that do not change the value they are called on. Pays for `format`
/// in advance, whose widths and repeated fields can ask for any amount of memory.
pub(super) fn extra_method(
    state: &State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Option<Value>, Error> {
    let Some(text) = value.as_str() else {
        return Ok(None);
    };
    let stripped = match method {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            text.strip_prefix(prefix)
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            text.strip_suffix(suffix)
        }
        "format" => {
            let mut longest = 0;
            for arg in args {
                let len = match arg.as_str() {
                    Some(text) => text.len(),
                    None => to_text(state, arg)?.len(),
                };
                longest = len.max(longest);
            }
            let fields = text.bytes().filter(|&byte| byte == b'{').count();
            let widths = text
                .split(|c: char| !c.is_ascii_digit())
                .filter(|digits| !digits.is_empty())
                .map(|digits| digits.parse::<u64>().unwrap_or(u64::MAX))
                .fold(0, u64::saturating_add);
            let bytes = widths.saturating_add((fields as u64).saturating_mul(longest as u64));
            state.consume_fuel(bytes / 64)?;
            return Ok(None);
        }
        _ => return Ok(None),
    };
    Ok(Some(Value::from(stripped.unwrap_or(text))))
}
