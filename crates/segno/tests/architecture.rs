//! The arrows between the workspace's crates are those of docs/ARCHITECTURE.md, and no others.

use std::process::Command;

/// `crate: what it may depend on`, without tests.
const ARROWS: &[(&str, &[&str])] = &[
    ("segno-quant", &[]),
    ("segno-gguf", &["segno-quant"]),
    ("segno-ir", &["segno-quant"]),
    ("segno-models", &["segno-gguf", "segno-ir"]),
    ("segno-text", &[]),
    ("segno-cpu", &["segno-ir", "segno-quant"]),
    ("segno-wgpu", &["segno-ir", "segno-quant"]),
    ("segno-runtime", &["segno-ir"]),
    ("segno-conformance", &["segno-ir", "segno-quant"]),
    (
        "segno",
        &[
            "segno-conformance",
            "segno-cpu",
            "segno-gguf",
            "segno-ir",
            "segno-models",
            "segno-quant",
            "segno-runtime",
            "segno-text",
            "segno-wgpu",
        ],
    ),
];

#[test]
fn dependencies_point_one_way() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo metadata runs");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    for package in packages {
        let name = package["name"].as_str().expect("a name");
        let Some((_, allowed)) = ARROWS.iter().find(|(n, _)| *n == name) else {
            panic!("{name} is not in the list of crates; add it here and to docs/ARCHITECTURE.md");
        };
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let to = dependency["name"].as_str().expect("a name");
            let normal = dependency["kind"].is_null();
            assert!(
                !normal || !to.starts_with("segno") || allowed.contains(&to),
                "{name} -> {to} is not an arrow of docs/ARCHITECTURE.md"
            );
        }
    }
}
