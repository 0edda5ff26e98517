//! Makes a template pay for what the engine does for free, and refuses what it could not survive.
//!
//! The engine counts instructions and the strings it makes. It does not count when lists are joined, repeated,
//! printed into a string or hashed, although a list that holds another one twice, and so on for sixty levels, prints
//! as 2^60 items. So calls of filters that pay (`python.rs`) are written into the template's source wherever a list
//! could get into such an operation: `a ~ b` becomes `(a)|__flat ~ (b)|__flat`. They give back what they are given;
//! text and numbers pass at once. No line is added or removed, so errors keep their lines.
//!
//! The engine's parser limits some kinds of nesting, but not chains, and frees what it has read by recursion. Sources
//! that would need a deep stack are refused before it sees them.
//!
//! Both work on tokens. An operand ends at the next operator that binds weaker, which is all of the grammar that has
//! to be known.

/// Pays for printing a value: all it holds, as often as it holds it.
pub(super) const FLAT: &str = "__flat";
/// Pays for the items of a list.
pub(super) const LENGTH: &str = "__length";
/// Pays for going through a text.
pub(super) const TEXT: &str = "__text";
/// Refuses lists: Jinja can repeat them with `*`, templates do not.
pub(super) const SCALAR: &str = "__scalar";

/// Brackets in brackets. Published templates have up to 8.
const MAX_NESTING: usize = 24;

/// Tokens between the commas of one bracket or tag. Published templates have up to 100.
const MAX_ITEM_TOKENS: usize = 400;

/// `elif` tags; the engine nests each in the one before.
const MAX_ELIFS: usize = 200;

/// Bytes of a line; the engine counts columns in 16 bits.
const MAX_LINE_BYTES: usize = 60_000;

/// Tags that put several templates together. The engine runs each on a stack of its own size.
const OTHER_TEMPLATES: &[&str] = &["block", "extends", "include", "import", "from"];

/// Filters that neither print nor hash their input. Of those that go through lists the engine counts the items.
const PLAIN_FILTERS: &[&str] = &[
    "abs", "batch", "bool", "count", "d", "default", "dictsort", "first", "float", "int", "items", "last", "length",
    "list", "max", "min", "reverse", "round", "slice", "sort", "string", "sum", "tojson", "unique", "zip",
];

/// Tests that look at the value's kind only.
const PLAIN_TESTS: &[&str] = &[
    "boolean",
    "defined",
    "divisibleby",
    "eq",
    "equalto",
    "even",
    "false",
    "float",
    "ge",
    "gt",
    "integer",
    "iterable",
    "le",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "true",
    "undefined",
];

/// Words that end an operand.
const KEYWORDS: &[&str] = &["and", "or", "if", "else", "in", "not", "recursive"];

/// What is too much, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooComplex {
    pub(super) line: usize,
    pub(super) reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Name,
    Operator,
    Open,
    Close,
}

#[derive(Clone, Copy, Debug)]
struct Token<'s> {
    kind: Kind,
    text: &'s str,
    start: usize,
    /// For brackets: the index of the other one.
    partner: usize,
}

impl Token<'_> {
    fn end(&self) -> usize {
        self.start + self.text.len()
    }

    fn is(&self, text: &str) -> bool {
        self.text == text && self.kind != Kind::Text
    }
}

/// A text to be put into the source. Where several are put in one place, those of inner operands come first.
struct Edit {
    at: usize,
    /// Where the operand begins.
    from: usize,
    text: String,
}

/// The template with paying filters written in.
pub(super) fn guard(source: &str) -> Result<String, TooComplex> {
    for (number, line) in source.lines().enumerate() {
        if line.len() > MAX_LINE_BYTES {
            let reason = format!("the line has {} bytes; at most {MAX_LINE_BYTES} are accepted", line.len());
            return Err(TooComplex { line: number + 1, reason });
        }
    }
    let too_complex = |at: usize, reason: String| TooComplex { line: 1 + source[..at].matches('\n').count(), reason };
    let mut edits = Vec::new();
    let mut elifs = 0;
    let mut rest = 0;
    while let Some(open) = source[rest..].find('{') {
        let at = rest + open;
        let inner = at + 2;
        let close = match source.as_bytes().get(at + 1) {
            Some(b'#') => {
                rest = source[inner..].find("#}").map_or(source.len(), |end| inner + end + 2);
                continue;
            }
            Some(b'{') => "}}",
            Some(b'%') => "%}",
            _ => {
                rest = at + 1;
                continue;
            }
        };
        let statement = close == "%}";
        if statement && let Some(end) = raw_block(source, inner) {
            rest = end;
            continue;
        }
        let (tokens, end) = tokens(source, inner, close).map_err(|(at, reason)| too_complex(at, reason))?;
        let name = tokens.first().filter(|_| statement).map_or("", |token| token.text);
        if name == "elif" {
            elifs += 1;
            if elifs > MAX_ELIFS {
                return Err(too_complex(at, format!("there are more than {MAX_ELIFS} elif tags")));
            }
        }
        if OTHER_TEMPLATES.contains(&name) {
            return Err(too_complex(at, format!("a {name:?} tag needs other templates, and a chat has only one")));
        }
        Tag { tokens: &tokens, statement }.edit(&mut edits);
        rest = end;
    }
    edits.sort_by(|a, b| a.at.cmp(&b.at).then(b.from.cmp(&a.from)));
    let mut out = String::with_capacity(source.len() + 16 * edits.len());
    let mut done = 0;
    for edit in &edits {
        out.push_str(&source[done..edit.at]);
        out.push_str(&edit.text);
        done = edit.at;
    }
    out.push_str(&source[done..]);
    Ok(out)
}

/// The end of a `raw` block whose tag begins at `inner`.
fn raw_block(source: &str, inner: usize) -> Option<usize> {
    let name = |at: usize| {
        let tag = source[at..].trim_start_matches(['-', '+']).trim_start();
        let len = tag.bytes().take_while(u8::is_ascii_alphanumeric).count();
        &tag[..len]
    };
    if name(inner) != "raw" {
        return None;
    }
    let mut at = inner;
    while let Some(open) = source[at..].find("{%") {
        at += open + 2;
        if name(at) == "endraw" {
            return Some(at);
        }
    }
    Some(source.len())
}

/// The tokens of the tag whose inside begins at `inner`, and where it ends; or where it is too complex, and why.
fn tokens<'s>(source: &'s str, inner: usize, close: &str) -> Result<(Vec<Token<'s>>, usize), (usize, String)> {
    let bytes = source.as_bytes();
    let mut tokens: Vec<Token<'s>> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    // Tokens since the last comma, in the tag and in each open bracket.
    let mut in_tag = 0;
    let mut in_brackets: Vec<usize> = Vec::new();
    let mut at = inner;
    // White-space control belongs to the tag.
    if matches!(bytes.get(at), Some(b'-' | b'+')) {
        at += 1;
    }
    while let Some(&byte) = bytes.get(at) {
        if byte.is_ascii_whitespace() {
            at += 1;
            continue;
        }
        let left = &source[at..];
        if open.is_empty() {
            if left.starts_with(close) {
                return Ok((tokens, at + close.len()));
            }
            if matches!(byte, b'-' | b'+') && left[1..].starts_with(close) {
                return Ok((tokens, at + 1 + close.len()));
            }
        }
        let (kind, len) = token(left);
        let count = in_brackets.last_mut().unwrap_or(&mut in_tag);
        *count = if matches!(byte, b',' | b':') { 0 } else { *count + 1 };
        if *count > MAX_ITEM_TOKENS {
            return Err((at, format!("an expression has more than {MAX_ITEM_TOKENS} parts")));
        }
        let index = tokens.len();
        let mut partner = index;
        match kind {
            Kind::Open => {
                open.push(index);
                in_brackets.push(0);
                if open.len() > MAX_NESTING {
                    return Err((at, format!("brackets are nested more than {MAX_NESTING} deep")));
                }
            }
            Kind::Close => {
                in_brackets.pop();
                if let Some(first) = open.pop() {
                    tokens[first].partner = index;
                    partner = first;
                }
            }
            _ => {}
        }
        tokens.push(Token { kind, text: &left[..len], start: at, partner });
        at += len;
    }
    Ok((tokens, source.len()))
}

/// Kind and length of the token that `text`, not empty, begins with.
fn token(text: &str) -> (Kind, usize) {
    let run = |accept: fn(char) -> bool| text.find(|c| !accept(c)).unwrap_or(text.len());
    match text.as_bytes()[0] {
        b'\'' | b'"' => (Kind::Text, string_len(text)),
        b'0'..=b'9' => (Kind::Number, run(|c| c.is_ascii_alphanumeric() || c == '_')),
        b'(' | b'[' | b'{' => (Kind::Open, 1),
        b')' | b']' | b'}' => (Kind::Close, 1),
        b'_' | b'a'..=b'z' | b'A'..=b'Z' | 0x80.. => {
            (Kind::Name, run(|c| c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii()))
        }
        _ => {
            let double = ["**", "//", "==", "!=", "<=", ">="].iter().any(|operator| text.starts_with(operator));
            (Kind::Operator, if double { 2 } else { 1 })
        }
    }
}

/// Length of the string literal that `text` begins with.
fn string_len(text: &str) -> usize {
    let mark = text.as_bytes()[0];
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            byte if byte == mark => return at + 1,
            _ => {}
        }
    }
    text.len()
}

struct Tag<'t> {
    tokens: &'t [Token<'t>],
    /// A `{% %}` tag, whose first word is its name.
    statement: bool,
}

/// How tightly an operator binds its operands; larger is tighter.
fn strength(text: &str) -> Option<u8> {
    Some(match text {
        "==" | "!=" | "<" | ">" | "<=" | ">=" | "in" => 0,
        "+" | "-" => 1,
        "~" => 2,
        "*" | "/" | "//" | "%" => 3,
        "**" => 4,
        _ => return None,
    })
}

impl Tag<'_> {
    fn edit(&self, edits: &mut Vec<Edit>) {
        let mut loop_in = self.statement && self.tokens.first().is_some_and(|token| token.is("for"));
        for (index, token) in self.tokens.iter().enumerate() {
            let before = index.checked_sub(1).map(|before| self.tokens[before]);
            match (token.kind, token.text) {
                (Kind::Operator, "~") if self.is_binary(index) => self.operands(index, FLAT, edits),
                (Kind::Operator, "*") if self.is_binary(index) => self.operands(index, SCALAR, edits),
                (Kind::Operator, "+") if self.is_binary(index) => {
                    // Text can only be joined to text, which the engine counts.
                    let text = |token: Option<&Token<'_>>| token.is_some_and(|token| token.kind == Kind::Text);
                    if !text(before.as_ref()) && !text(self.tokens.get(index + 1)) {
                        self.operands(index, LENGTH, edits);
                    }
                }
                (Kind::Operator, "|") => {
                    if let (Some(name), Some(before)) = (self.name(index + 1), before)
                        && !PLAIN_FILTERS.contains(&name)
                        && !self.selects_plainly(name, index + 2)
                    {
                        insert(before.end(), token.start, FLAT, edits);
                        self.arguments(index + 2, edits);
                    }
                }
                // The `in` of a loop stands between its names and its list.
                (Kind::Name, "in") if loop_in => loop_in = false,
                (Kind::Name, "in") if !self.names_test(index) => {
                    let operator = if before.is_some_and(|before| before.is("not")) { index - 1 } else { index };
                    if let Some(last) = operator.checked_sub(1) {
                        self.wrap(self.first(last, 1), last, FLAT, edits);
                    }
                }
                (Kind::Name, "is") => {
                    let name = index + 1 + usize::from(self.name(index + 1) == Some("not"));
                    if let (Some(test), Some(before)) = (self.name(name), before)
                        && !PLAIN_TESTS.contains(&test)
                    {
                        insert(before.end(), token.start, FLAT, edits);
                        self.arguments(name + 1, edits);
                    }
                }
                // `{% filter name(..) %}`
                (Kind::Name, "filter") if self.statement && index == 0 => self.arguments(2, edits),
                (Kind::Operator, ".") if self.name(index + 1).is_some() => self.arguments(index + 2, edits),
                (Kind::Open, "[") if before.is_some_and(|before| self.ends_operand(&before)) => {
                    self.subscript(index, edits);
                }
                (Kind::Open, "{") => self.keys(index, edits),
                _ => {}
            }
        }
    }

    fn name(&self, index: usize) -> Option<&str> {
        self.tokens.get(index).filter(|token| token.kind == Kind::Name).map(|token| token.text)
    }

    fn ends_operand(&self, token: &Token<'_>) -> bool {
        match token.kind {
            Kind::Text | Kind::Number | Kind::Close => true,
            Kind::Name => {
                let names_tag = self.statement && token.start == self.tokens[0].start;
                !names_tag && !KEYWORDS.contains(&token.text)
            }
            Kind::Operator | Kind::Open => false,
        }
    }

    /// True for the word behind `is` or `is not`, whatever it means elsewhere.
    fn names_test(&self, index: usize) -> bool {
        let before = |back: usize| index.checked_sub(back).map_or("", |before| self.tokens[before].text);
        before(1) == "is" || before(1) == "not" && before(2) == "is"
    }

    /// Between two operands, and not a sign.
    fn is_binary(&self, index: usize) -> bool {
        index.checked_sub(1).is_some_and(|before| self.ends_operand(&self.tokens[before]))
    }

    /// True if no operand of an operator of this strength goes on across the token.
    fn stops(&self, index: usize, weaker_than: u8) -> bool {
        let token = &self.tokens[index];
        let weaker = strength(token.text).is_some_and(|own| own < weaker_than);
        match token.kind {
            Kind::Open | Kind::Close => true,
            Kind::Operator if matches!(token.text, "," | ":" | "=") => true,
            Kind::Operator => weaker && self.is_binary(index),
            // `is not` is no negation.
            Kind::Name if token.text == "not" => {
                !index.checked_sub(1).is_some_and(|before| self.tokens[before].is("is"))
            }
            Kind::Name if self.names_test(index) => false,
            Kind::Name => KEYWORDS.contains(&token.text) || self.statement && index == 0 || weaker,
            Kind::Text | Kind::Number => false,
        }
    }

    /// Guards both operands of the operator at `index`. In a chain of one operator, what is on the left of another
    /// one has been guarded as its right operand.
    fn operands(&self, index: usize, filter: &str, edits: &mut Vec<Edit>) {
        let operator = self.tokens[index].text;
        let Some(own) = strength(operator) else { return };
        let first = self.first(index - 1, own + 1);
        let chained = first.checked_sub(1).is_some_and(|at| self.tokens[at].is(operator) && self.is_binary(at));
        if !chained {
            self.wrap(first, index - 1, filter, edits);
        }
        if index + 1 < self.tokens.len() {
            self.wrap(index + 1, self.last(index + 1, own + 1), filter, edits);
        }
    }

    /// The first token of the operand that ends at `last`.
    fn first(&self, last: usize, strength: u8) -> usize {
        let mut at = last;
        loop {
            if self.tokens[at].kind == Kind::Close {
                at = self.tokens[at].partner.min(at);
            }
            let Some(before) = at.checked_sub(1) else { return at };
            let goes_on = match self.tokens[before].kind {
                // A bracket ends here: something that belongs to it follows, as in `(a).b`, `f(x)[1]` or `(a) is b`.
                Kind::Close => {
                    let token = &self.tokens[at];
                    token.kind == Kind::Operator || token.kind == Kind::Open || token.is("is")
                }
                // A bracket that belongs to what is before it: calls and subscripts.
                _ if self.tokens[at].kind == Kind::Open && self.ends_operand(&self.tokens[before]) => true,
                _ => !self.stops(before, strength),
            };
            if !goes_on {
                return at;
            }
            at = before;
        }
    }

    /// The last token of the operand that begins at `first`.
    fn last(&self, first: usize, strength: u8) -> usize {
        let mut at = first;
        loop {
            if self.tokens[at].kind == Kind::Open {
                at = self.tokens[at].partner.max(at);
            }
            match self.tokens.get(at + 1) {
                Some(next) if next.kind == Kind::Open => at += 1,
                Some(_) if !self.stops(at + 1, strength) => at += 1,
                _ => return at,
            }
        }
    }

    fn wrap(&self, first: usize, last: usize, filter: &str, edits: &mut Vec<Edit>) {
        let (Some(first_token), Some(last_token)) = (self.tokens.get(first), self.tokens.get(last)) else {
            return;
        };
        // Literals are short.
        let literal = first == last && matches!(first_token.kind, Kind::Text | Kind::Number);
        if literal || first > last {
            return;
        }
        let from = first_token.start;
        edits.push(Edit { at: from, from, text: "(".into() });
        edits.push(Edit { at: last_token.end(), from, text: format!(")|{filter}") });
    }

    /// Guards the tokens from `start` to before `end`.
    fn wrap_range(&self, start: usize, end: usize, edits: &mut Vec<Edit>) {
        if start < end {
            self.wrap(start, end - 1, FLAT, edits);
        }
    }

    /// Guards the subscript whose bracket is at `open`, and what it is taken of.
    fn subscript(&self, open: usize, edits: &mut Vec<Edit>) {
        let close = self.tokens[open].partner;
        let slice = self.inside(open + 1, close).any(|inner| self.tokens[inner].is(":"));
        if !slice {
            self.wrap_range(open + 1, close, edits);
        }
        let name = self.tokens.get(open + 1).is_some_and(|token| token.kind == Kind::Text) && close == open + 2;
        if name {
            return;
        }
        // A text is gone through from its beginning to find a place.
        let mut at = open - 1;
        loop {
            at = self.tokens[at].partner.min(at);
            match at.checked_sub(1).map(|before| self.tokens[before]) {
                Some(before) if self.tokens[at].kind == Kind::Open && self.ends_operand(&before) => at -= 1,
                Some(before) if self.tokens[at].kind == Kind::Name && before.is(".") && at >= 2 => at -= 2,
                _ => break,
            }
        }
        let from = self.tokens[at].start;
        edits.push(Edit { at: from, from, text: "((".into() });
        edits.push(Edit { at: self.tokens[open - 1].end(), from, text: format!(")|{TEXT})") });
    }

    /// True for filters that choose by a test which looks at kinds only, or by truth. The name of the test is the
    /// first argument, or the second behind that of an attribute.
    fn selects_plainly(&self, filter: &str, open: usize) -> bool {
        let place = match filter {
            "select" | "reject" => 0,
            "selectattr" | "rejectattr" => 1,
            _ => return false,
        };
        let Some(bracket) = self.tokens.get(open).filter(|token| token.is("(")) else { return true };
        let mut number = 0;
        let mut plain = true;
        self.items(open, bracket.partner, |start, end| {
            if number == place && start < end {
                let test = self.tokens[start].text.trim_matches(['\'', '"']);
                plain = end - start == 1 && PLAIN_TESTS.contains(&test);
            }
            number += 1;
        });
        plain
    }

    /// Guards each argument of the call whose bracket is at `open`, if there is one.
    fn arguments(&self, open: usize, edits: &mut Vec<Edit>) {
        let Some(bracket) = self.tokens.get(open).filter(|token| token.is("(")) else { return };
        self.items(open, bracket.partner, |start, end| {
            // Keyword arguments keep their names in front, `*` and `**` their signs.
            let named = self.tokens.get(start + 1).is_some_and(|token| token.is("="));
            let start = if named { start + 2 } else { start };
            let spread = self.tokens.get(start).is_some_and(|token| token.is("*") || token.is("**"));
            self.wrap_range(start + usize::from(spread), end, edits);
        });
    }

    /// Guards the keys of the map whose bracket is at `open`.
    fn keys(&self, open: usize, edits: &mut Vec<Edit>) {
        self.items(open, self.tokens[open].partner, |start, end| {
            let colon = self.inside(start, end).find(|&at| self.tokens[at].is(":"));
            self.wrap_range(start, colon.unwrap_or(end), edits);
        });
    }

    /// Calls `item` with the token range of each part between the commas of a bracket.
    fn items(&self, open: usize, close: usize, mut item: impl FnMut(usize, usize)) {
        let mut start = open + 1;
        for at in self.inside(open + 1, close) {
            if self.tokens[at].is(",") {
                item(start, at);
                start = at + 1;
            }
        }
        item(start, close);
    }

    /// The tokens from `start` to before `end` that are in no bracket of their own; of brackets the opening one.
    fn inside(&self, start: usize, end: usize) -> impl Iterator<Item = usize> {
        let mut at = start;
        std::iter::from_fn(move || {
            let now = at;
            at = self.tokens.get(now).filter(|_| now < end)?.partner.max(now) + 1;
            Some(now)
        })
    }
}

fn insert(at: usize, from: usize, filter: &str, edits: &mut Vec<Edit>) {
    edits.push(Edit { at, from, text: format!("|{filter}") });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_end_where_weaker_operators_begin() {
        for (source, want) in [
            ("{{ a ~ b }}", "{{ (a)|__flat ~ (b)|__flat }}"),
            ("{{ 'x' ~ 1 ~ b.c ~ d }}", "{{ 'x' ~ 1 ~ (b.c)|__flat ~ (d)|__flat }}"),
            ("{{ a * 2 ~ b + c }}", "{{ (((a)|__scalar * 2)|__flat ~ (b)|__flat)|__length + (c)|__length }}"),
            ("{{ a + b + c }}", "{{ (a)|__length + (b)|__length + (c)|__length }}"),
            ("{{ a + 'x' + b }}", "{{ a + 'x' + b }}"),
            (
                "{{ a ~ b|upper if c ~ d else e }}",
                "{{ (a)|__flat ~ (b|__flat|upper)|__flat if (c)|__flat ~ (d)|__flat else e }}",
            ),
            ("{{ a|tojson ~ f(x)['k'].y }}", "{{ (a|tojson)|__flat ~ (f(x)['k'].y)|__flat }}"),
            ("{{ a.b(c)[1:].d[e] }}", "{{ ((((a.b((c)|__flat))|__text)[1:].d)|__text)[(e)|__flat] }}"),
            ("{{ x[{'a': 1}.get(y)] }}", "{{ ((x)|__text)[({'a': 1}.get((y)|__flat))|__flat] }}"),
            ("{{ a|selectattr('b', 'equalto', c)|list }}", "{{ a|selectattr('b', 'equalto', c)|list }}"),
            ("{{ a|select('in', c) }}", "{{ a|__flat|select('in', (c)|__flat) }}"),
            ("{{ a|reject|select('string') }}", "{{ a|reject|select('string') }}"),
            ("{{ a in b and c not in d }}", "{{ (a)|__flat in b and (c)|__flat not in d }}"),
            ("{{ a == b in c }}", "{{ a == (b)|__flat in c }}"),
            ("{{ not a ~ -b }}", "{{ not (a)|__flat ~ (-b)|__flat }}"),
            ("{{ a - b ~ c == d ~ e }}", "{{ a - (b)|__flat ~ (c)|__flat == (d)|__flat ~ (e)|__flat }}"),
            ("{{ a is not string ~ b }}", "{{ (a is not string)|__flat ~ (b)|__flat }}"),
            ("{{ a is in(b) }}", "{{ a|__flat is in((b)|__flat) }}"),
            ("{{ x.get(k, 1) }}", "{{ x.get((k)|__flat, 1) }}"),
            ("{{ x|replace('a', y) }}", "{{ x|__flat|replace('a', (y)|__flat) }}"),
            ("{{ x[y] + z }}", "{{ (((x)|__text)[(y)|__flat])|__length + (z)|__length }}"),
            ("{{ {k: [1, 2], 'a': b} }}", "{{ {(k)|__flat: [1, 2], 'a': b} }}"),
            ("{%- for a, b in c if a in d -%}", "{%- for a, b in c if (a)|__flat in d -%}"),
            ("{% set x = a ~ b -%}", "{% set x = (a)|__flat ~ (b)|__flat -%}"),
            ("{# a ~ b #}{% raw %}{{ a ~ b }}{% endraw %}", "{# a ~ b #}{% raw %}{{ a ~ b }}{% endraw %}"),
            ("{{ '}} ~ ' }} ~ }}", "{{ '}} ~ ' }} ~ }}"),
            ("{{ f(a=b ~ c, *d) }}", "{{ f(a=(b)|__flat ~ (c)|__flat, *d) }}"),
            ("{{ (a)(b) ~ [c] }}", "{{ ((a)(b))|__flat ~ ([c])|__flat }}"),
        ] {
            assert_eq!(guard(source).unwrap(), want, "{source}");
        }
    }

    #[test]
    fn broken_tags_do_no_harm() {
        for source in [
            "{",
            "{{",
            "{%",
            "{{ ~",
            "{{ a ~",
            "{{ ( ~ )",
            "{{ ) ~ ( }}",
            "{{ 'a",
            "{% raw",
            "{{ a|",
            "{{ | }}",
            "{{ in }}",
            "{{ [ }}",
            "{{ a[ }}",
            "{{ a[",
            "{{ ][ }}",
            "{{ is }}",
            "{% not in",
            "{{ a.b( }}",
            "{{ {,:, }}",
        ] {
            guard(source).unwrap();
        }
    }

    #[test]
    fn what_would_take_too_deep_a_stack_is_refused() {
        for (source, line, reason) in [
            (format!("\n{{{{ {} }}}}", "(".repeat(25)), 2, "nested"),
            (format!("{{{{\n\na{} }}}}", "~a".repeat(300)), 3, "parts"),
            (format!("{{{{ [{}] }}}}", "a.b.c|d".repeat(100)), 1, "parts"),
            (format!("{{% if a %}}{}{{% endif %}}", "\n{% elif a %}".repeat(201)), 202, "elif"),
            (format!("\n{}", "x".repeat(60_001)), 2, "bytes"),
            ("a\n{%- block b %}{% endblock %}".into(), 2, "other templates"),
        ] {
            let error = guard(&source).unwrap_err();
            assert_eq!(error.line, line, "{}", error.reason);
            assert!(error.reason.contains(reason), "{}", error.reason);
        }
        // Long lists are long, not deep.
        guard(&format!("{{{{ [{}] }}}}", "'a', ".repeat(5_000))).unwrap();
    }
}
