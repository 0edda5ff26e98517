//! The engine, set up as transformers sets up Jinja2.

use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, UndefinedBehavior, Value};
use minijinja_contrib::pycompat;

use super::{MAX_STEPS, guard, python};

/// What `raise_exception` was called with, carried as the cause of the engine's error.
#[derive(Debug)]
pub(super) struct Raised(pub(super) String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// An engine without templates.
pub(super) fn new() -> Environment<'static> {
    let mut environment = Environment::new();
    match SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        Ok(syntax) => environment.set_syntax(syntax),
        // Only contradictory delimiters are refused, and these are the usual ones.
        Err(error) => log::error!("template syntax settings: {error}"),
    }
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_fuel(Some(MAX_STEPS));
    environment.set_recursion_limit(RECURSION_LIMIT);
    environment.set_formatter(python::write_value);
    environment.set_unknown_method_callback(|state, value, method, args| {
        match python::extra_method(state, value, method, args)? {
            Some(result) => Ok(result),
            None => pycompat::unknown_method_callback(state, value, method, args),
        }
    });
    environment.add_filter("tojson", python::tojson);
    environment.add_filter("string", python::string);
    environment.add_function("raise_exception", raise_exception);
    environment.remove_global("debug");
    environment.add_filter(guard::FLAT, python::pay_flat);
    environment.add_filter(guard::LENGTH, python::pay_length);
    environment.add_filter(guard::TEXT, python::pay_text);
    environment.add_filter(guard::SCALAR, python::refuse_list);
    // Jinja2 asks whether a value has a length and can be indexed; strings and dicts do, too.
    environment.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String)
    });
    environment.add_test("iterable", |value: &Value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String | ValueKind::Iterable)
    });
    environment
}

/// Nested blocks, macros and calls; macros count tenfold. Deep enough for every published template, shallow enough
/// for a thread with a small stack.
const RECURSION_LIMIT: usize = 300;

fn raise_exception(state: &State<'_, '_>, message: &Value) -> Result<Value, Error> {
    let message = python::to_text(state, message)?;
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

/// Transformers marks the assistant's words with `{% generation %}` blocks, for training. They print their body; so
/// does `{% if true %}`, which leaves white-space control and scopes as they are.
pub(super) fn neutralise_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let (before, tag) = rest.split_at(open + 2);
        out.push_str(before);
        rest = tag;
        let body = tag.trim_start_matches(['-', '+']);
        let body = body.trim_start();
        for (name, stand_in) in [("generation", "if true"), ("endgeneration", "endif")] {
            if let Some(after) = body.strip_prefix(name)
                && after.trim_start().trim_start_matches(['-', '+']).starts_with("%}")
            {
                out.push_str(&tag[..tag.len() - body.len()]);
                out.push_str(stand_in);
                rest = after;
                break;
            }
        }
    }
    out.push_str(rest);
    out
}
