//! WGSL templates: `#import NAME`, `#if FLAG`, `#else`, `#endif`, and constants put in front.

use std::collections::BTreeSet;

macro_rules! sources {
    ($($name:literal),* $(,)?) => {
        const SOURCES: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../../shaders/wgsl/", $name, ".wgsl"))),)*];
    };
}

sources![
    "activate",
    "add",
    "attention",
    "concat",
    "copy",
    "delta_rule",
    "embed",
    "expert_linear",
    "l2_norm",
    "linear",
    "mul",
    "reduce",
    "rms_norm",
    "rope",
    "route",
    "sample",
    "scale",
    "select_rows",
    "short_conv",
    "slice",
    "soft_cap",
    "softplus",
    "lib/act",
    "lib/bf16",
    "lib/f16",
    "lib/f32",
    "lib/k_scales",
    "lib/log_1p",
    "lib/q4_0",
    "lib/q4_1",
    "lib/q4_k",
    "lib/q5_0",
    "lib/q5_1",
    "lib/q5_k",
    "lib/q6_k",
    "lib/q8_0",
    "lib/reduce",
    "lib/step",
    "lib/store_blocks",
    "lib/tree",
];

/// A template that cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShaderError {
    /// Which template.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub problem: String,
}

impl std::fmt::Display for ShaderError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "shaders/wgsl/{}.wgsl:{}: {}", self.file, self.line, self.problem)
    }
}

impl std::error::Error for ShaderError {}

/// One variant of a kernel: its template, what is switched on, its constants.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Variant {
    /// The template.
    pub name: &'static str,
    /// Flags for `#if`.
    pub flags: Vec<&'static str>,
    /// `const NAME: u32 = value;`
    pub constants: Vec<(&'static str, u32)>,
    /// The quantisation's function set, for `#import FORMAT`.
    pub format: Option<&'static str>,
    /// The parameter struct's text.
    pub params: String,
}

impl Variant {
    /// The WGSL text.
    pub fn expand(&self) -> Result<String, ShaderError> {
        let mut out = self.params.clone();
        if self.name != "copy" {
            let of = if self.flags.contains(&"WIDE") { "vec4<f32>" } else { "f32" };
            out.push_str(&format!("@group(0) @binding(0) var<storage, read_write> act: array<{of}>;\n"));
        }
        for (name, value) in &self.constants {
            out.push_str(&format!("const {name}: u32 = {value}u;\n"));
        }
        let mut imported = BTreeSet::new();
        self.include(self.name, &mut imported, &mut out)?;
        Ok(out)
    }

    fn include(&self, file: &str, imported: &mut BTreeSet<String>, out: &mut String) -> Result<(), ShaderError> {
        let fail = |line: usize, problem: String| ShaderError { file: file.into(), line, problem };
        let Some((_, text)) = SOURCES.iter().find(|(name, _)| *name == file) else {
            return Err(fail(0, "there is no such template".into()));
        };
        // Of each open `#if`: whether its lines are taken.
        let mut open: Vec<bool> = Vec::new();
        for (i, line) in text.lines().enumerate() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let taken = open.iter().all(|&t| t);
            match words[..] {
                ["#if", flag] => open.push(self.flags.contains(&flag)),
                ["#else"] => match open.last_mut() {
                    Some(top) => *top = !*top,
                    None => return Err(fail(i + 1, "#else without #if".into())),
                },
                ["#endif"] => {
                    open.pop().ok_or_else(|| fail(i + 1, "#endif without #if".into()))?;
                }
                ["#import", name] if taken => {
                    let name = match name {
                        "FORMAT" => self.format.ok_or_else(|| fail(i + 1, "this variant has no format".into()))?,
                        _ => name,
                    };
                    let path = format!("lib/{name}");
                    if imported.insert(path.clone()) {
                        self.include(&path, imported, out)?;
                    }
                }
                [first, ..] if first.starts_with('#') && first != "#import" => {
                    return Err(fail(i + 1, format!("unknown directive {first}")));
                }
                _ if taken => {
                    out.push_str(line);
                    out.push('\n');
                }
                _ => {}
            }
        }
        match open.is_empty() {
            true => Ok(()),
            false => Err(fail(text.lines().count(), "#if without #endif".into())),
        }
    }
}

/// Names of all templates of ops, for lists.
pub fn variants() -> impl Iterator<Item = &'static str> {
    SOURCES.iter().map(|(name, _)| *name).filter(|name| !name.starts_with("lib/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_imports_are_resolved() {
        let variant = Variant {
            name: "embed",
            flags: vec!["WEIGHT"],
            constants: vec![("WG", 64)],
            format: Some("q4_k"),
            params: "struct P {}\n".into(),
        };
        let text = variant.expand().expect("expands");
        assert!(
            text.contains("fn weight_unit(") && text.contains("fn scale_and_min(") && text.contains("fn row_kind(")
        );
        assert!(!text.contains('#'), "{text}");
        let plain = Variant { flags: Vec::new(), format: None, ..variant.clone() }.expand().expect("expands");
        assert!(!plain.contains("weight_unit"));
        let error = Variant { format: None, ..variant }.expand().expect_err("no format");
        assert_eq!((error.file.as_str(), error.line), ("embed", 6));
    }
}
