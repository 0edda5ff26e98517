//! Every kind of variant, without a device: valid WGSL, and translated for Vulkan, Metal and DX12.

use std::io::Write;
use std::process::{Command, Stdio};

use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ValidationFlags, Validator};

use super::*;
use crate::params::Params;

const FORMATS: &[&str] = &["f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k"];

/// One variant of every template for every combination of its flags.
fn variants() -> Vec<Variant> {
    let every = [("WG", 64), ("N", 96), ("TILE", 4), ("OUTPUTS", 2), ("GROUP", 32)];
    let sizes = [
        ("WEIGHT_LEN", 32),
        ("HEAD_DIM", 32),
        ("N_ROT", 16),
        ("D_K", 32),
        ("D_V", 48),
        ("K_HALVES", 17),
        ("V_HALVES", 9),
        ("CHANNELS", 1),
        ("PART_PAGES", 4),
        ("LANES", 16),
    ];
    let more = [("KERNEL", 4), ("STATE", 512), ("N_HEAD_K", 2), ("N_HEAD_V", 4)];
    let runs = [("PER_THREAD", 4), ("WIDTH", 8), ("OFFSET", 4), ("STRIDE", 16), ("K", 2), ("GROUP_WIDTH", 8)];
    let runs = [&runs[..], &[("EXPERT_GROUPS", 4), ("GROUPS_USED", 2), ("CHUNKS", 1024)]].concat();
    let constants = [&every[..], &sizes, &more, &runs].concat();
    let table: &[(&'static str, &[&'static str], String)] = &[
        ("activate", &["SILU", "GATED"], activate::params()),
        ("activate", &["GELU", "GATED"], activate::params()),
        ("activate", &["RELU", "GATED"], activate::params()),
        ("activate", &["RELU2", "GATED"], activate::params()),
        ("activate", &["SIGMOID", "GATED"], activate::params()),
        ("activate", &["TANH", "GATED"], activate::params()),
        ("activate", &["EXP", "GATED"], activate::params()),
        ("activate", &["CLAMPED_SWIGLU", "GATED"], activate::params()),
        ("add", &["GROUPS"], Binary::wgsl()),
        ("attention", &["K_F16", "V_F16"], attention::params(false)),
        ("attention", &["FOURS", "WIDE", "SPLIT", "K_F16"], attention::params(false)),
        ("attention", &["FOURS", "K_WIDE", "WIDE"], attention::params(false)),
        ("attention", &["K_BLOCKS", "K_Q8_0", "V_BLOCKS", "V_Q8_0", "SPLIT"], attention::params(false)),
        ("attention", &["MERGE"], attention::params(false)),
        ("attention", &["APPEND", "K_F16", "V_F16"], attention::params(true)),
        ("attention", &["APPEND", "K_BLOCKS", "K_Q8_0", "V_BLOCKS", "V_Q8_0"], attention::params(true)),
        ("concat", &[], Unary::wgsl()),
        ("copy", &[], crate::pool::copy_params()),
        ("delta_rule", &["TILED", "CHANNEL_DECAY"], delta_rule::params()),
        ("embed", &["WEIGHT", "RAGGED"], embed::params()),
        ("expert_linear", &["COMBINE", "RAGGED"], expert_linear::params()),
        ("expert_linear", &["COMBINE", "WIDE"], expert_linear::params()),
        ("l2_norm", &[], l2_norm::params()),
        ("linear", &["BIAS", "GROUPS", "RAGGED"], linear::params()),
        ("linear", &["GROUPS", "WIDE"], linear::params()),
        ("mul", &["WEIGHT", "GROUPS"], Binary::wgsl()),
        ("mul", &["GROUPS"], Binary::wgsl()),
        ("reduce", &["SUM"], Unary::wgsl()),
        ("reduce", &["NORM"], Unary::wgsl()),
        ("reduce", &["DEVIATION"], Unary::wgsl()),
        ("rms_norm", &["WEIGHT"], rms_norm::params()),
        ("rope", &["NEOX"], rope::params()),
        ("route", &["SOFTMAX", "BIAS", "GROUPS", "NORMALISE"], route::params()),
        ("route", &["SIGMOID", "BIAS", "GROUPS", "NORMALISE"], route::params()),
        ("route", &["SQRT_SOFTPLUS", "BIAS", "NORMALISE"], route::params()),
        ("route", &["SOFTMAX_CHOSEN", "BIAS", "NORMALISE"], route::params()),
        ("sample", &["MAXIMA"], sample::params()),
        ("scale", &[], scale::params()),
        ("select_rows", &[], select_rows::params()),
        ("short_conv", &["BIAS", "SILU"], Unary::wgsl()),
        ("slice", &[], Unary::wgsl()),
        ("soft_cap", &[], soft_cap::params()),
        ("softplus", &["BIAS", "FACTOR", "GROUPS"], Unary::wgsl()),
    ];
    let mut all = Vec::new();
    for (name, flags, params) in table {
        // What a variant cannot be without.
        let needed: &[&str] = match *name {
            "activate" | "reduce" | "route" => &flags[..1],
            "attention" if flags.contains(&"APPEND") => &flags[..1],
            "attention" if flags.contains(&"K_WIDE") => &["FOURS"],
            _ => &[],
        };
        for set in 0..1u32 << flags.len() {
            let chosen: Vec<&'static str> = (0..flags.len()).filter(|i| set >> i & 1 == 1).map(|i| flags[i]).collect();
            if !needed.iter().all(|flag| chosen.contains(flag)) {
                continue;
            }
            let reads_weights =
                ["linear", "expert_linear"].contains(name) || *name == "embed" && chosen.contains(&"WEIGHT");
            for &format in if reads_weights { FORMATS } else { &[""] } {
                all.push(Variant {
                    name,
                    flags: chosen.clone(),
                    constants: constants.clone(),
                    format: (!format.is_empty()).then_some(format),
                    params: params.clone(),
                });
            }
        }
    }
    all
}

/// Checks SPIR-V with the tool that Debian's spirv-tools brings.
fn spirv_val(words: &[u32]) -> Result<(), String> {
    let spawned = Command::new("spirv-val")
        .args(["--target-env", "vulkan1.1", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child =
        spawned.map_err(|e| format!("spirv-val cannot be run ({e}); on Debian: apt-get install spirv-tools"))?;
    let written = child.stdin.take().map(|mut input| input.write_all(bytemuck::cast_slice(words)));
    let output = child.wait_with_output().map_err(|e| e.to_string())?;
    match (written, output.status.success()) {
        (Some(Ok(())), true) => Ok(()),
        _ => Err(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()),
    }
}

#[test]
fn every_template_is_covered() {
    let all = variants();
    for name in crate::shader::variants() {
        assert!(all.iter().any(|v| v.name == name), "{name} has no variant here");
    }
}

#[test]
fn every_variant_is_valid_and_translates() {
    for variant in variants() {
        let what = format!("{} {:?} {}", variant.name, variant.flags, variant.format.unwrap_or(""));
        let source = variant.expand().unwrap_or_else(|e| panic!("{what}: {e}"));
        let module =
            naga::front::wgsl::parse_str(&source).unwrap_or_else(|e| panic!("{what}: {}", e.emit_to_string(&source)));
        let mut validator =
            Validator::new(ValidationFlags::all(), Capabilities::IMMEDIATES | Capabilities::SHADER_FLOAT16_IN_FLOAT32);
        let info = validator.validate(&module).unwrap_or_else(|e| panic!("{what}: {}", e.emit_to_string(&source)));
        let bound = module.global_variables.iter().filter(|(_, variable)| variable.binding.is_some()).count();
        assert!(bound <= 8, "{what} has {bound} storage bindings, more than 8");

        let options = spv::Options { lang_version: (1, 3), ..Default::default() };
        let words = spv::write_vec(&module, &info, &options, None).unwrap_or_else(|e| panic!("{what}: SPIR-V: {e}"));
        spirv_val(&words).unwrap_or_else(|e| panic!("{what}: {e}"));

        let mut resources = msl::BindingMap::default();
        let mut slot = 0u8;
        for (_, variable) in module.global_variables.iter() {
            if let Some(binding) = &variable.binding {
                resources.insert(*binding, msl::BindTarget { buffer: Some(slot), mutable: true, ..Default::default() });
                slot += 1;
            }
        }
        let entry = msl::EntryPointResources { resources, immediates_buffer: Some(slot), sizes_buffer: Some(slot + 1) };
        let options = msl::Options {
            per_entry_point_map: [("main".to_string(), entry)].into_iter().collect(),
            fake_missing_bindings: false,
            ..Default::default()
        };
        msl::write_string(&module, &info, &options, &msl::PipelineOptions::default())
            .unwrap_or_else(|e| panic!("{what}: MSL: {e}"));

        let options = hlsl::Options {
            shader_model: hlsl::ShaderModel::V6_4,
            fake_missing_bindings: true,
            immediates_target: Some(hlsl::BindTarget { space: 7, register: 0, ..Default::default() }),
            ..Default::default()
        };
        let mut text = String::new();
        hlsl::Writer::new(&mut text, &options, &hlsl::PipelineOptions::default())
            .write(&module, &info, None)
            .unwrap_or_else(|e| panic!("{what}: HLSL: {e}"));
    }
}
