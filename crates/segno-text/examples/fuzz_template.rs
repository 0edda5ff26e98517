//! Throws mutated chat templates at the renderer: `fuzz_template <executions> [seed] [first]`.
//!
//! Each execution is determined by the seed and its own number, so a failure is found again with `first` set to the
//! number printed. Runs on a thread with a small stack, as a server's would be. Fails if anything panics.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use segno_text::{BuiltinFormat, ChatTemplate, Message, RenderOptions, TemplateError};

/// Pieces that mutations put in: what templates are made of, and what hurts.
const PIECES: &[&str] = &[
    "{{",
    "}}",
    "{%",
    "%}",
    "{%-",
    "-%}",
    "{#",
    "#}",
    "{% for m in messages %}",
    "{% for k, v in messages[0].items() %}",
    "{% for i in range(1000) %}",
    "{% for i in range(100000) %}",
    "{% endfor %}",
    "{% if loop.last %}",
    "{% elif false %}",
    "{% else %}",
    "{% endif %}",
    "{% set ns = namespace(x=[]) %}",
    "{% set ns.x = [ns.x, ns.x] %}",
    "{% set ns.x = ns.x ~ ns.x %}",
    "{% set x %}",
    "{% endset %}",
    "{% macro f(a, b=1) %}",
    "{% endmacro %}",
    "{% call f(1) %}",
    "{% endcall %}",
    "{{ f(f) }}",
    "{{ f([ns.x]) }}",
    "{% break %}",
    "{% continue %}",
    "{% generation %}",
    "{% endgeneration %}",
    "{% filter upper %}",
    "{% endfilter %}",
    "{% raw %}",
    "{% endraw %}",
    "{% include 'chat' %}",
    "{% import 'chat' as c %}",
    "{% extends 'chat' %}",
    "{% block b %}",
    "{% endblock %}",
    "{{ raise_exception('no') }}",
    "{{ strftime_now('%c %Q %-') }}",
    "{{ messages|tojson(indent=4) }}",
    "{{ ns|tojson }}",
    "{{ ns.x|tojson(separators=(',', ':')) }}",
    "{{ 'x' * 10000000 }}",
    "{{ [0] * 10000000 }}",
    "{{ '%999999999d'|format(1) }}",
    "{{ '{:>999999999}'.format(1) }}",
    "{{ 'é'|indent(100000) }}",
    "{{ messages[::-1] }}",
    "{{ messages[::0] }}",
    "{{ messages[-9223372036854775808:] }}",
    "{{ 9223372036854775807 + 1 }}",
    "{{ -9223372036854775808 // -1 }}",
    "{{ 2 ** 9999 }}",
    "{{ 1 % 0 }}",
    "{{ 1 / 0 }}",
    "{{ 'a,b'.split(',')|join('\u{1F642}') }}",
    "{{ 'aé'[1:] }}",
    "{{ messages|sort(attribute='content')|map(attribute='role')|list }}",
    "{{ messages|groupby('role') }}",
    "{{ x.y.z }}",
    "{{ self }}",
    "{{ loop(messages) }}",
    "|trim",
    "|length",
    "|first",
    "|batch(3)",
    "|slice(0)",
    "|round(400)",
    "|int",
    ".content",
    "['role']",
    "[-1]",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "'",
    "\"",
    "\\u",
    "~",
    "is defined",
    "not ",
    "-",
    "0",
    "1e308",
    "\n",
    "\u{FEFF}",
    "\u{1F642}",
];

/// Executions that take longer are printed.
const SLOW: Duration = Duration::from_secs(2);

/// Splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// A character border of `text`.
    fn place(&mut self, text: &str) -> usize {
        let mut at = self.below(text.len() + 1);
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    }
}

/// A template of one execution: a built-in format with some changes. Most keep it well-formed, so that they reach
/// the engine and not only the parser.
fn template(random: &mut Random) -> String {
    let formats = BuiltinFormat::ALL;
    let mut text = formats[random.below(formats.len())].source().to_string();
    for _ in 0..1 + random.below(3) {
        let expression = expression(random, 4);
        // Outputs of the format: a piece can be put before one without breaking a tag.
        let outputs: Vec<usize> = text.match_indices("{{-").map(|(at, _)| at).collect();
        let at = outputs.get(random.below(outputs.len())).copied().unwrap_or(0);
        match random.below(6) {
            0 | 1 => text.insert_str(at, &format!("{{{{ {expression} }}}}")),
            2 => text.insert_str(at, &format!("{{% set v = {expression} %}}{{{{ v }}}}")),
            3 => text.insert_str(at, &format!("{{% for v in {expression} %}}{{{{ v }}}}{{% endfor %}}")),
            4 => text.insert_str(at, &format!("{{% if {expression} %}}y{{% else %}}n{{% endif %}}")),
            _ => text.insert_str(at, BLOCKS[random.below(BLOCKS.len())]),
        }
    }
    if random.below(4) == 0 {
        break_up(&mut text, random);
    }
    text
}

/// Changes without regard for syntax.
fn break_up(text: &mut String, random: &mut Random) {
    for _ in 0..1 + random.below(3) {
        let (a, b) = (random.place(text), random.place(text));
        let range = a.min(b)..a.max(b);
        match random.below(6) {
            0 => text.replace_range(range, ""),
            1 if text.len() < 20_000 => {
                let copy = text[range].to_string();
                let at = random.place(text);
                text.insert_str(at, &copy);
            }
            2 => text.replace_range(range, PIECES[random.below(PIECES.len())]),
            3 => {
                let count = 1 << random.below(9);
                let piece = PIECES[random.below(PIECES.len())];
                text.insert_str(a, &piece.repeat(count));
            }
            _ => text.insert_str(a, PIECES[random.below(PIECES.len())]),
        }
    }
}

/// Whole blocks.
const BLOCKS: &[&str] = &[
    "{% set ns = namespace(x=[]) %}{% for i in range(9) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(x='y') %}{% for i in range(20) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x|length }}",
    "{% set ns = namespace(x=1) %}{% for i in range(300) %}{% set ns.x = {'a': ns.x} %}{% endfor %}{{ ns.x|tojson }}",
    "{% macro f(a, b=1) %}{{ a }}{{ f(b) if a else '' }}{% endmacro %}{{ f(2) }}",
    "{% macro g() %}{{ caller() }}{% endmacro %}{% call g() %}{{ messages }}{% endcall %}",
    "{% for m in messages recursive %}{{ loop(messages[1:]) if loop.depth < 4 }}{% endfor %}",
    "{% for k, v in messages[0].items() %}{{ k }}={{ v }}{% if loop.last %}{% break %}{% endif %}{% endfor %}",
    "{% set x %}{{ messages|tojson(indent=2) }}{% endset %}{{ x|upper }}",
    "{% filter trim %}{{ messages[0].content }}{% endfilter %}",
    "{% generation %}a{% endgeneration %}",
    "{% set a, b = messages[0].items()|first %}{{ a }}{{ b }}",
    "{% with q = messages %}{{ q|length }}{% endwith %}",
    "{% autoescape true %}{{ '<' }}{% endautoescape %}",
    "{% do messages.append(1) %}",
    "{% if messages %}{{ raise_exception(messages) }}{% endif %}",
    "{% raw %}{{ x }}{% endraw %}",
];

const ATOMS: &[&str] = &[
    "messages",
    "messages[0]",
    "messages[-1].content",
    "messages[2].tool_calls",
    "m",
    "loop",
    "loop.index0",
    "ns",
    "namespace(a=1)",
    "none",
    "true",
    "false",
    "undefined_name",
    "bos_token",
    "'a,b c\\n'",
    "'{:>99999999}{0}'",
    "'%99999999d %s'",
    "'\u{E9}\u{1F642}'",
    "''",
    "0",
    "-1",
    "3",
    "99999999",
    "9223372036854775807",
    "1e308",
    "0.1",
    "[]",
    "{}",
    "[1, 'a', none]",
    "{'a': 1, 2: [3]}",
    "range(5)",
    "range(99999)",
    "dict(a=1)",
    "strftime_now",
    "raise_exception",
    "self",
];

const FILTERS: &[&str] = &[
    "tojson",
    "tojson(indent=3)",
    "tojson(ensure_ascii=true, sort_keys=true)",
    "trim",
    "length",
    "string",
    "list",
    "int",
    "float",
    "round(400)",
    "abs",
    "upper",
    "title",
    "first",
    "last",
    "join(', ')",
    "sort",
    "unique",
    "reverse",
    "items",
    "dictsort",
    "map(attribute='role')",
    "map('upper')",
    "select",
    "selectattr('role', 'equalto', 'user')",
    "rejectattr('x')",
    "groupby('role')",
    "batch(3, 0)",
    "slice(3)",
    "min",
    "max",
    "sum",
    "indent(99999)",
    "replace('a', 'bb')",
    "default('d', true)",
    "format(1, 2)",
    "split(',')",
    "lines",
    "zip([1])",
    "pprint",
    "bool",
    "safe",
    "escape",
    "attr('x')",
    "chain([1])",
];

const METHODS: &[&str] = &[
    "strip()",
    "split()",
    "split('')",
    "split(',', 1)",
    "lstrip('a')",
    "replace('', 'xy')",
    "format(1, 'b')",
    "startswith('a')",
    "find('b')",
    "splitlines()",
    "title()",
    "join(['a'])",
    "items()",
    "get('a', 1)",
    "keys()",
    "count('a')",
    "removeprefix('a')",
    "append(1)",
    "x",
    "a.b",
];

const TESTS: &[&str] = &[
    "string",
    "mapping",
    "sequence",
    "iterable",
    "defined",
    "none",
    "number",
    "boolean",
    "true",
    "odd",
    "divisibleby(0)",
    "in([1])",
    "equalto(1)",
];

const OPERATORS: &[&str] =
    &["+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", ">=", "in", "not in", "and", "or"];

/// A random expression, mostly of the kinds templates use.
fn expression(random: &mut Random, depth: usize) -> String {
    fn pick(random: &mut Random, list: &[&'static str]) -> &'static str {
        list[random.below(list.len())]
    }
    if depth == 0 {
        return pick(random, ATOMS).into();
    }
    let inner = expression(random, depth - 1);
    match random.below(10) {
        0 => pick(random, ATOMS).into(),
        1 | 2 => format!("{inner}|{}", pick(random, FILTERS)),
        3 => format!("({inner}).{}", pick(random, METHODS)),
        4 => format!("({inner} is {})", pick(random, TESTS)),
        5 | 6 => {
            let right = expression(random, depth - 1);
            format!("({inner} {} {right})", pick(random, OPERATORS))
        }
        7 => {
            let index = expression(random, depth - 1);
            match random.below(3) {
                0 => format!("({inner})[{index}]"),
                1 => format!("({inner})[{index}:]"),
                _ => format!("({inner})[::{index}]"),
            }
        }
        8 => format!("[{inner}, {}]", expression(random, depth - 1)),
        _ => format!("({inner} if {} else {inner})", expression(random, depth - 1)),
    }
}

fn messages() -> Vec<Message> {
    let mut call = Message::new("assistant", "");
    call.extra.insert(
        "tool_calls".into(),
        serde_json::json!([{"type": "function", "function": {"name": "f", "arguments": {"a": [1, 2.5, null]}}}]),
    );
    vec![
        Message::new("system", "S \u{1F642} <|im_end|> {{ x }}"),
        Message::new("user", "U\n"),
        call,
        Message::new("tool", "{\"r\": true}"),
    ]
}

#[derive(Default)]
struct Counts {
    rendered: u64,
    syntax: u64,
    raised: u64,
    failed: u64,
    steps: u64,
    output: u64,
    panics: u64,
    slowest: Duration,
    slowest_number: u64,
}

fn run(executions: u64, seed: u64, first: u64) -> Counts {
    let messages = messages();
    let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
    let mut counts = Counts::default();
    for number in first..first + executions {
        let mut random = Random(seed ^ number.wrapping_mul(0xD134_2543_DE82_EF95));
        let source = template(&mut random);
        let start = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| {
            ChatTemplate::new(&source, "<s>", "</s>").and_then(|template| template.render(&messages, &options))
        }));
        let taken = start.elapsed();
        if taken > SLOW {
            eprintln!("execution {number} of seed {seed} took {taken:?}; template:\n{source}\n");
        }
        if taken > counts.slowest {
            (counts.slowest, counts.slowest_number) = (taken, number);
        }
        match result {
            Ok(Ok(rendered)) => {
                assert!(rendered.borders.iter().all(|&border| rendered.text.is_char_boundary(border)));
                counts.rendered += 1;
            }
            Ok(Err(TemplateError::Syntax { .. })) => counts.syntax += 1,
            Ok(Err(TemplateError::Raised { .. })) => counts.raised += 1,
            Ok(Err(TemplateError::OutOfSteps { .. })) => counts.steps += 1,
            Ok(Err(TemplateError::OutputTooLarge { .. })) => counts.output += 1,
            Ok(Err(error)) if !matches!(error, TemplateError::Engine { .. }) => counts.failed += 1,
            // A panic of the engine is caught by the library, one of the library is caught here.
            Ok(Err(_)) | Err(_) => {
                eprintln!("execution {number} of seed {seed} panicked; template:\n{source}\n");
                counts.panics += 1;
            }
        }
        if (number + 1) % 100_000 == 0 {
            eprintln!("{} done", number + 1);
        }
    }
    counts
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let mut argument = |default: u64| match arguments.next() {
        None => default,
        Some(Ok(number)) => number,
        Some(Err(error)) => {
            eprintln!("usage: fuzz_template <executions> [seed] [first]: {error}");
            std::process::exit(2);
        }
    };
    let (executions, seed, first) = (argument(10_000), argument(1), argument(0));
    let start = Instant::now();
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(move || run(executions, seed, first));
    let counts = match thread.map(|thread| thread.join()) {
        Ok(Ok(counts)) => counts,
        _ => {
            eprintln!("the fuzzing thread could not run");
            std::process::exit(1);
        }
    };
    println!(
        "{executions} executions, seed {seed}: {} rendered, {} syntax errors, {} refused, {} failed, \
         {} out of steps, {} output limit, {} panics; {:.0} s, slowest {:.2} s (execution {})",
        counts.rendered,
        counts.syntax,
        counts.raised,
        counts.failed,
        counts.steps,
        counts.output,
        counts.panics,
        start.elapsed().as_secs_f64(),
        counts.slowest.as_secs_f64(),
        counts.slowest_number,
    );
    if counts.panics > 0 {
        std::process::exit(1);
    }
}
