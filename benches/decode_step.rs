//! What one decode step of a model costs on a GPU: dispatches, time on the device, time to encode, time a token
//! with one step under way and with two.
//!
//! `cargo run --release --example decode_step [DEVICE [MODEL.gguf [STEPS]]]`

use std::sync::Arc;
use std::time::{Duration, Instant};

use segno::Model;
use segno_ir::sample::{SampleParams, SampleRow};
use segno_ir::{Cancel, Input, SpanKind};
use segno_runtime::{ExecutorOptions, Work};
use segno_wgpu::{WgpuDevice, WgpuOptions, adapters};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_else(|| "vulkan".into());
    let model = arguments.next().map_or_else(Model::demo, Model::open)?;
    let steps: u32 = arguments.next().map_or(Ok(100), |n| n.parse())?;
    let adapters = adapters();
    let choice = adapters.iter().find(|a| a.id == name || a.backend == name).ok_or("there is no such adapter")?;
    println!("{} ({}), {}", choice.name, choice.driver, model.name());
    for depth in [1, 2] {
        let device = WgpuDevice::new(choice, &WgpuOptions { profile: true, ..Default::default() })?;
        let options = ExecutorOptions { n_ctx: steps + 96, max_rows: 64, ..Default::default() };
        let mut executor = model.executor(Arc::new(device), options)?;
        let sequence = executor.create()?;
        let prompt: Vec<Input> = (0..32).map(|i| Input::Token(300 + i)).collect();
        let draw = |position| SampleRow {
            row: 0,
            params: SampleParams::greedy(),
            position,
            bias: Vec::new(),
            stop: Vec::new(),
        };
        let work = Work { sequence, kind: SpanKind::Prefill, inputs: prompt, outputs: vec![31], snapshots: Vec::new() };
        let issued = executor.issue(vec![work], &Cancel::new())?;
        let mut ticket = executor.sample(&issued.rows, &[draw(32)])?;
        let mut flights = vec![(issued, None)];
        let mut begun = Instant::now();
        let warm_up = 8;
        for step in 0..steps + warm_up {
            if step == warm_up {
                begun = Instant::now();
            }
            if depth == 1
                && let Some((issued, _)) = flights.pop()
            {
                let tokens = std::mem::replace(&mut ticket.tokens, segno_ir::Pending::ready(Vec::new()));
                tokens.wait(Duration::from_secs(60))?;
                executor.confirm(issued);
            }
            let inputs = vec![Input::Sampled { ticket: ticket.id, row: 0 }];
            let work = Work { sequence, kind: SpanKind::Decode, inputs, outputs: vec![0], snapshots: Vec::new() };
            let issued = executor.issue(vec![work], &Cancel::new())?;
            let drawn = executor.sample(&issued.rows, &[draw(33 + step)])?;
            let before = std::mem::replace(&mut ticket, drawn);
            if depth == 2 {
                let (older, _): (segno_runtime::Issued, Option<()>) = flights.remove(0);
                before.tokens.wait(Duration::from_secs(60))?;
                executor.confirm(older);
            }
            flights.push((issued, None));
        }
        for (issued, _) in flights {
            executor.confirm(issued);
        }
        let each = begun.elapsed().as_secs_f64() * 1e6 / f64::from(steps);
        println!("{depth} under way: {each:.0} us a token; {}", executor.profile());
    }
    Ok(())
}
