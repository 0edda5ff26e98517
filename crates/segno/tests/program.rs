//! The program as a user meets it: right and wrong arguments, good and broken files.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use safetensors::SafeTensors;

fn segno(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_segno"));
    command.args(arguments).stdin(Stdio::null()).env_remove("RUST_LOG").output().expect("runs")
}

fn fixture(name: &str) -> String {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")).join(name);
    path.to_str().expect("a path").to_string()
}

/// A path of this test's own.
fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("segno-{}-{name}", std::process::id()))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn answers_a_prompt_of_an_argument_a_file_and_standard_input() {
    let question = "What is 7 + 8?";
    let output = segno(&["run", "-p", question, "--temp", "0", "--device", "cpu"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "7 + 8 = 15.\n");
    assert!(text(&output.stderr).contains("t/s"));

    let path = scratch("prompt.txt");
    std::fs::write(&path, question).expect("written");
    let output = segno(&["run", "-f", path.to_str().expect("a path"), "--temp", "0", "-n", "3", "-t", "1"]);
    assert_eq!(text(&output.stdout), "7 + \n");
    assert!(text(&output.stderr).contains("stopped at -n"));

    let mut command = Command::new(env!("CARGO_BIN_EXE_segno"));
    let input = std::fs::File::open(&path).expect("opens");
    let output = command.args(["run", "--temp", "0"]).stdin(input).output().expect("runs");
    assert_eq!(text(&output.stdout), "7 + 8 = 15.\n");
    std::fs::remove_file(path).expect("removed");
}

#[test]
fn the_same_seed_gives_the_same_reply() {
    let draw =
        |seed: &str| text(&segno(&["run", "-p", "Tell me a story.", "--seed", seed, "-n", "40", "-t", "2"]).stdout);
    let (first, other) = (draw("1"), draw("2"));
    assert_eq!(first, draw("1"));
    assert_ne!(first, other);
}

#[test]
fn models_of_the_hub_are_found_in_its_cache() {
    let cache = scratch("hub");
    let repo = cache.join("models--some--tiny-GGUF");
    let (old, new) = (repo.join("snapshots/0a"), repo.join("snapshots/9b"));
    for (folder, name) in [(&old, "t-Q6_K.gguf"), (&new, "t-Q8_0.gguf"), (&new, "mmproj-t-Q4_K_M.gguf")] {
        std::fs::create_dir_all(folder).expect("made");
        std::fs::copy(fixture("qwen35/model-q8_0.gguf"), folder.join(name)).expect("copied");
    }
    std::fs::create_dir(repo.join("refs")).expect("made");
    std::fs::write(repo.join("refs/main"), "9b\n").expect("written");
    let ask = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_segno"));
        command
            .args(arguments)
            .stdin(Stdio::null())
            .env_remove("RUST_LOG")
            .env("LLAMA_CACHE", &cache)
            .env("HF_HUB_OFFLINE", "1")
            .output()
            .expect("runs")
    };
    for (name, file) in [
        ("some/tiny-GGUF", "t-Q8_0.gguf"),
        ("some/tiny-GGUF:q6_k", "t-Q6_K.gguf"),
        ("some/tiny-GGUF:Q8_0", "t-Q8_0.gguf"),
    ] {
        let output = ask(&["inspect", "-hf", name, "-v"]);
        assert!(output.status.success() && text(&output.stderr).contains(file), "{name}: {}", text(&output.stderr));
    }
    let of_file = ask(&["tokenize", &fixture("qwen35/model-q8_0.gguf"), "-p", "a fox", "--ids"]);
    assert_eq!(of_file.stdout, ask(&["tokenize", "-hf", "some/tiny-GGUF", "-p", "a fox", "--ids"]).stdout);
    assert!(of_file.status.success());
    for (name, expected) in [
        ("some/tiny-GGUF:Q4_K_M", "of that repository there are: t-Q6_K.gguf, t-Q8_0.gguf"),
        ("some/other", "some/other is not in the hub's local cache, "),
        ("../../etc", "is not a model of the hub; expected user/repo"),
    ] {
        for command in
            [&["run", "-p", "x", "-hf", name][..], &["bench", "-hf", name], &["bench", "multiturn", "-hf", name]]
        {
            let output = ask(command);
            let message = text(&output.stderr);
            assert!(!output.status.success() && message.contains(expected), "{command:?}: {message}");
        }
    }
    std::fs::remove_dir_all(cache).expect("removed");
}

#[test]
fn wrong_use_is_told_what_would_be_right() {
    let broken = scratch("broken.gguf");
    std::fs::write(&broken, b"GGUF\x03\0\0\0\x05").expect("written");
    let broken = broken.to_str().expect("a path");
    let empty = scratch("empty.gguf");
    std::fs::write(&empty, b"").expect("written");
    let empty = empty.to_str().expect("a path");
    let vocabulary = fixture("tokenizers/qwen35.gguf");
    let model = fixture("qwen35/model-q8_0.gguf");
    let out = scratch("never.safetensors");
    let out = out.to_str().expect("a path");
    for (arguments, expected) in [
        (&["run", "nothing.gguf", "-p", "x"][..], "there is no file nothing.gguf; expected the path of a GGUF file"),
        (&["run", "-m", "nothing.gguf", "-p", "x"], "there is no file nothing.gguf"),
        (&["run", "-m", "a.gguf", "b.gguf"], "cannot be used with"),
        (
            &["run", "some/model", "-p", "x"],
            "there is no file some/model; for a model of the Hugging Face hub: -hf some/model",
        ),
        (&["bench", "-m", "nothing.gguf"], "there is no file nothing.gguf"),
        (&["bench", "multiturn", "-m", "nothing.gguf"], "there is no file nothing.gguf"),
        (&["run", "src", "-p", "x"], "src is a folder without GGUF files"),
        (&["run", "models", "-p", "x"], "models is a folder, expected a GGUF file; there are: segno-demo-q8_0.gguf"),
        (&["run", empty, "-p", "x"], "empty.gguf: "),
        (&["bench", "--device", "abacus"], "there is no device 'abacus'; there are: auto, cpu"),
        (&["bench", "-p", "1", "multiturn"], "cannot be used with"),
        (&["synth", "gpt-5", "x.gguf"], "[possible values: qwen3.5-0.8b, qwen3.5-4b, lfm2-1.2b, gemma3-1b]"),
        (&["run", broken, "-p", "x"], "at byte 8, tensor count: needs 8 bytes, but the file ends after 1"),
        (&["run", "Cargo.toml", "-p", "x"], "is not a GGUF file: it begins with '[pac', expected 'GGUF'"),
        (&["run", "-p", "x", "--device", "abacus"], "there is no device 'abacus'; there are: "),
        (&["run", "-p", "x", "--temp", "-1"], "--temp"),
        (&["run", "-p", "x", "--top-p", "2"], "--top-p is 2, expected a number from 0 to 1"),
        (&["run", "-p", ""], "the prompt is empty"),
        (&["run", "-p", "a long prompt for a short context", "-c", "8"], "raise -c"),
        (&["run", "-f", "nothing.txt"], "cannot read the prompt in nothing.txt"),
        (&["run", &vocabulary, "-p", "x"], "is missing"),
        (
            &["logits", &model, "--tokens", "1,2,400", "--out", out],
            "token 400 at position 2 is outside the vocabulary of 336",
        ),
        (&["logits", &model, "--tokens", "1,x", "--out", out], "invalid value 'x'"),
        (&["logits", &model, "--out", out], "--tokens"),
        (&["logits", &model, "--tokens", "1", "--out", "/nowhere/x"], "cannot write /nowhere/x"),
        (&["dance"], "unrecognized subcommand"),
    ] {
        let output = segno(arguments);
        let message = text(&output.stderr);
        assert!(!output.status.success(), "{arguments:?} was accepted");
        assert!(message.contains(expected), "{arguments:?}: {message}");
        assert!(!message.contains("panicked"), "{message}");
    }
    std::fs::remove_file(broken).expect("removed");
    std::fs::remove_file(empty).expect("removed");
}

#[test]
fn flags_of_hybrid_cpp_mean_what_they_mean_there() {
    let ask = |interval: &str, slots: &str| {
        let flags = ["--hybridcheckpointinterval", interval, "--hybridcheckpointslots", slots];
        let output = segno(&[&["run", "-p", "Hi", "-n", "2", "--device", "cpu", "--temp", "0"][..], &flags].concat());
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    let (_, reply, _) = ask("0", "0");
    // Either below 1 is off; 48 and 1000 divide no batch and are no multiple of one, which no rule needs.
    for (interval, slots) in
        [("256", "64"), ("32", "1"), ("48", "3"), ("1000", "3"), ("-1", "4"), ("64", "-4"), ("0", "4")]
    {
        let (accepted, other, message) = ask(interval, slots);
        assert!(accepted && other == reply, "{interval}, {slots}: {message}");
    }
    for slots in ["4", "0"] {
        let (accepted, _, message) = ask("31", slots);
        assert!(!accepted && message.contains("is 31, expected 0 (off) or at least 32"), "{message}");
    }
}

#[test]
fn every_command_has_help_with_examples() {
    let all = text(&segno(&["--help"]).stdout);
    let commands = all.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands: Vec<&str> = commands.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.contains(&"synth") && !commands.contains(&"bench-multiturn"), "{all}");
    for command in commands.into_iter().filter(|c| *c != "help").map(|c| vec![c]).chain([vec!["bench", "multiturn"]]) {
        let help = text(&segno(&[&command[..], &["--help"]].concat()).stdout);
        let example = format!("\n  segno {}", command.join(" "));
        assert!(help.contains("\nExamples:\n") && help.contains(&example), "{command:?}: {help}");
        assert!(help.lines().all(|line| line.chars().count() <= 120), "{help}");
    }
    let run = text(&segno(&["run", "--help"]).stdout);
    let of = |heading: &str| run.find(&format!("\n{heading}:\n")).unwrap_or_else(|| panic!("{heading}: {run}"));
    assert!(
        of("Options") < run.find("--no-chat").expect("a flag") && run.find("--no-chat") < Some(of("Memory")),
        "{run}"
    );
    for heading in ["Arguments", "Device", "Sampling", "Checkpoints"] {
        of(heading);
    }
}

#[test]
fn logits_are_those_of_the_reference() {
    let model = fixture("qwen35/model-f16.gguf");
    let expected = std::fs::read(fixture("qwen35/expected.safetensors")).expect("expected logits");
    let expected = SafeTensors::deserialize(&expected).expect("safetensors");
    let words = |tensor: &str| -> Vec<[u8; 4]> {
        let data = expected.tensor(tensor).expect("a tensor").data().to_vec();
        data.chunks_exact(4).map(|b| b.try_into().expect("4 bytes")).collect()
    };
    let ids: Vec<String> = words("tokens").iter().map(|b| i32::from_le_bytes(*b).to_string()).collect();
    let file = scratch("tokens.txt");
    std::fs::write(&file, ids.join("\n")).expect("written");
    for (i, extra) in
        [&["--reference"][..], &["--device", "cpu"], &["--device", "cpu", "-b", "7", "-t", "1"]].iter().enumerate()
    {
        let out = scratch(&format!("logits-{i}.safetensors"));
        let arguments =
            ["logits", &model, "--tokens-file", file.to_str().expect("a path"), "--out", out.to_str().expect("a path")];
        let output = segno(&[&arguments[..], extra].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        let bytes = std::fs::read(&out).expect("written");
        let found = SafeTensors::deserialize(&bytes).expect("safetensors");
        let (tokens, logits) = (found.tensor("tokens").expect("tokens"), found.tensor("logits").expect("logits"));
        assert_eq!((tokens.shape(), logits.shape()), (&[96][..], &[96, 336][..]));
        let max = logits
            .data()
            .chunks_exact(4)
            .zip(words("logits"))
            .map(|(a, b)| (f32::from_le_bytes(a.try_into().expect("4 bytes")) - f32::from_le_bytes(b)).abs())
            .fold(0f32, |max, d| if d > max || d.is_nan() { d } else { max });
        assert!(max <= 1e-3, "{extra:?}: max abs error {max}");
        std::fs::remove_file(out).expect("removed");
    }
    std::fs::remove_file(file).expect("removed");
}

#[test]
fn inspect_and_devices_print_what_they_say() {
    let plain = text(&segno(&["inspect"]).stdout);
    assert!(plain.contains("general.architecture") && plain.contains("5.9 M parameters"), "{plain}");
    let json: serde_json::Value = serde_json::from_slice(&segno(&["inspect", "--json"]).stdout).expect("JSON");
    assert_eq!(json["tensors"].as_array().expect("tensors").len(), 108);
    let graph = text(&segno(&["inspect", "--graph", &fixture("qwen35/model-q8_0.gguf")]).stdout);
    assert!(graph.contains("delta_rule(") && graph.contains("attention("), "{graph}");
    let unknown = segno(&["inspect", "--tensors", &fixture("tokenizers/qwen35.gguf")]);
    assert!(unknown.status.success() && text(&unknown.stdout).contains("this model cannot be run"));
    let devices: serde_json::Value = serde_json::from_slice(&segno(&["devices", "--json"]).stdout).expect("JSON");
    assert!(devices.as_array().expect("devices").iter().any(|d| d["id"] == "cpu"));
}

#[test]
fn tokenize_prints_the_pieces_and_ids_of_the_fixtures() {
    for name in ["qwen35", "spm-llama", "llama-bpe"] {
        let vocabulary = fixture(&format!("tokenizers/{name}.gguf"));
        let cases = std::fs::read(fixture(&format!("tokenizers/{name}.cases.json"))).expect("cases");
        let cases: serde_json::Value = serde_json::from_slice(&cases).expect("JSON");
        let cases: Vec<_> = cases["cases"].as_array().expect("cases").iter().filter(|c| c["text"] != "").collect();
        let file = scratch(&format!("tokenize-{name}.txt"));
        for case in cases.iter().step_by(7) {
            std::fs::write(&file, case["text"].as_str().expect("text")).expect("written");
            for (way, flags) in [
                ("ids", &["--no-bos", "--no-parse-special"][..]),
                ("ids_parse_special", &["--no-bos"]),
                ("ids_add_special", &["--no-parse-special"]),
                ("ids_add_and_parse_special", &[]),
            ] {
                let path = file.to_str().expect("a path");
                let output = segno(&[&["tokenize", &vocabulary, "--ids", "-f", path], flags].concat());
                assert!(output.status.success(), "{}", text(&output.stderr));
                let ids: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a list");
                assert_eq!(ids, case[way], "{name}, {way}: {}", case["text"]);
            }
        }
        std::fs::remove_file(file).expect("removed");
    }
    let pieces = text(&segno(&["tokenize", "-p", "Hi, fox!<|im_end|>"]).stdout);
    assert_eq!(
        pieces,
        "   803 -> 'Hi'
    11 -> ','
  1874 -> ' fox'
     0 -> '!'
  2557 -> '<|im_end|>'
"
    );
    assert!(
        text(&segno(&["tokenize", "--ids", "-p", "x", &fixture("qwen35/model-q8_0.gguf")]).stdout).starts_with('[')
    );
}

/// 130 tokens in chunks of 32 against the logits of the f64 interpreter, scored here by the formula.
#[test]
fn perplexity_is_that_of_the_reference_logits() {
    let file = scratch("perplexity.txt");
    let story = "The fox has a red lantern. It walks to the old bridge and meets a small owl.\n".repeat(6);
    std::fs::write(&file, &story).expect("written");
    let path = file.to_str().expect("a path");
    // A vocabulary without and one with a bos token.
    for (model, bos) in [("qwen35/model-f16.gguf", None), ("lfm2/model-f16.gguf", Some("332"))] {
        let model = fixture(model);
        let list = segno(&["tokenize", &model, "--ids", "--no-parse-special", "-p", story.trim_end()]);
        let ids: Vec<u32> = serde_json::from_slice(&list.stdout).expect("ids");
        let (mut sum, mut squares, mut n) = (0f64, 0f64, 0f64);
        for chunk in ids.chunks_exact(32).take(3) {
            let mut read: Vec<String> = chunk.iter().map(u32::to_string).collect();
            if let Some(bos) = bos {
                read[0] = bos.into();
            }
            let out = scratch("perplexity.safetensors");
            let out_path = out.to_str().expect("a path");
            let output = segno(&["logits", &model, "--reference", "--tokens", &read.join(","), "--out", out_path]);
            assert!(output.status.success(), "{}", text(&output.stderr));
            let bytes = std::fs::read(&out).expect("written");
            let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
            let logits = tensors.tensor("logits").expect("logits");
            let row_bytes = logits.shape()[1] * 4;
            for i in 16..31 {
                let row = &logits.data()[i * row_bytes..][..row_bytes];
                let row: Vec<f64> =
                    row.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().expect("4")))).collect();
                let nll = row.iter().map(|v| v.exp()).sum::<f64>().ln() - row[chunk[i + 1] as usize];
                (sum, squares, n) = (sum + nll, squares + nll * nll, n + 1.0);
            }
            std::fs::remove_file(out).expect("removed");
        }
        let expected = (sum / n).exp();
        let error = ((squares / n - (sum / n).powi(2)) / (n - 1.0)).sqrt() * expected;
        for extra in [&[][..], &["-b", "7"]] {
            let arguments =
                ["perplexity", &model, "-f", path, "-c", "32", "--chunks", "3", "--json", "--device", "cpu"];
            let output = segno(&[&arguments[..], extra].concat());
            assert!(output.status.success(), "{}", text(&output.stderr));
            let found: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
            assert_eq!((&found["chunks"], &found["tokens_scored"]), (&3.into(), &45.into()));
            for (key, want) in [("perplexity", expected), ("standard_error", error)] {
                let got = found[key].as_f64().expect("a number");
                assert!((got / want - 1.0).abs() < 1e-4, "{model} {extra:?} {key}: {got}, expected {want}");
            }
        }
    }
    let plain = text(&segno(&["perplexity", "-f", path, "-c", "32", "--device", "cpu"]).stdout);
    assert!(plain.starts_with("[1]") && plain.contains("\nFinal estimate: PPL = "), "{plain}");
    let short = segno(&["perplexity", "-f", path, "--device", "cpu"]);
    assert!(text(&short.stderr).contains("perplexity needs two chunks of 512"), "{}", text(&short.stderr));
    std::fs::remove_file(file).expect("removed");
}

#[test]
fn bench_measures_what_it_is_told_to() {
    let flags = ["bench", "-p", "32,0", "-n", "4", "-pg", "16,3", "-d", "0,70", "-r", "2", "-ub", "64", "-t", "1"];
    let run = |format: &str| {
        let output = segno(&[&flags[..], &["-ctk", "f16", "--device", "cpu", "-o", format]].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let table = run("md");
    let names: Vec<&str> = table.lines().skip(2).map(|l| l.split('|').nth(6).expect("7 columns").trim()).collect();
    assert_eq!(names, ["pp32", "tg4", "pp16+tg3", "pp32 @ d70", "tg4 @ d70", "pp16+tg3 @ d70"], "{table}");
    assert!(table.lines().nth(2).expect("a line").contains("5.93 M"), "{table}");
    let all: serde_json::Value = serde_json::from_str(&run("json")).expect("JSON");
    let lines = run("jsonl");
    assert_eq!((all.as_array().expect("a list").len(), lines.lines().count()), (6, 6));
    for line in lines.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let number = |key: &str| line[key].as_f64().expect("a number");
        let tokens = number("n_prompt") + number("n_gen");
        let samples: Vec<f64> =
            line["samples_ns"].as_array().expect("samples").iter().filter_map(|v| v.as_f64()).collect();
        let mean = samples.iter().map(|ns| tokens * 1e9 / ns).sum::<f64>() / 2.0;
        assert!(samples.len() == 2 && (number("avg_ts") / mean - 1.0).abs() < 1e-9, "{line}");
        assert_eq!((line["type_k"].as_str(), line["type_v"].as_str()), (Some("f16"), Some("f32")));
    }
    assert_eq!(run("csv").lines().count(), 7);
    let nothing = segno(&["bench", "-p", "0", "-n", "0"]);
    assert!(text(&nothing.stderr).contains("there is nothing to measure"));
}

#[test]
fn completions_and_man_pages_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = text(&segno(&["completions", shell]).stdout);
        assert!(script.contains("perplexity") && script.contains("no-parse-special"), "{shell}: {script}");
    }
    assert!(!segno(&["completions", "abacus"]).status.success());
    let page = text(&segno(&["man"]).stdout);
    assert!(page.contains(".TH segno 1") && page.contains("perplexity"), "{page}");
    let folder = scratch("man");
    std::fs::create_dir(&folder).expect("made");
    assert!(segno(&["man", "--out", folder.to_str().expect("a path")]).status.success());
    let page = std::fs::read_to_string(folder.join("segno-bench.1")).expect("a page");
    assert!(page.contains("repetitions"), "{page}");
    assert!(folder.join("segno-bench-multiturn.1").is_file());
    std::fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn synthesised_files_have_a_real_shape_and_run() {
    for (shape, layers) in [("qwen3.5-0.8b", "4"), ("lfm2-1.2b", "3"), ("gemma3-1b", "6")] {
        let path = scratch(&format!("{shape}.gguf"));
        let file = path.to_str().expect("a path");
        let output = segno(&["synth", shape, file, "--layers", layers, "--vocab", "1000"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let shown = text(&segno(&["inspect", file]).stdout);
        assert!(["Q4_K", "Q6_K"].iter().all(|ty| shown.contains(ty)), "{shown}");
        if shape == "gemma3-1b" {
            // llama.cpp's types for rows of 1152, which is no multiple of 256: 5 bits for 4, 8 for 6.
            assert!(shown.contains("37 F32, 10 Q4_K, 28 Q5_0, 2 Q6_K, 3 Q8_0"), "{shown}");
            assert!(shown.contains("keys and values of the last 512 tokens: 5 layers"), "{shown}");
        }
        let output = segno(&["run", "-m", file, "-p", "A fox", "-n", "3", "--device", "cpu", "-c", "256"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let output = segno(&[
            "perplexity",
            file,
            "-f",
            file_of_text().to_str().expect("a path"),
            "-c",
            "32",
            "--device",
            "cpu",
            "--json",
        ]);
        let shown = text(&output.stdout);
        assert!(
            output.status.success() && !shown.contains("null") && !shown.contains("NaN"),
            "{shown}{}",
            text(&output.stderr)
        );
        std::fs::remove_file(path).expect("removed");
    }
    std::fs::remove_file(file_of_text()).expect("removed");
}

fn file_of_text() -> PathBuf {
    let path = scratch("synth.txt");
    std::fs::write(&path, "A fox and a lantern went into the wood. ".repeat(3)).expect("written");
    path
}
