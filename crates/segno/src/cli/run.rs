//! `segno run`: one reply, or a conversation.

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use rustyline::error::ReadlineError;
use segno::{Cancel, Chat, Error, Finish, GenerateOptions, LoadOptions, Reply, Session};

use super::cache::CacheArgs;
use super::checkpoints::{CheckpointArgs, explain};
use super::model::ModelArgs;
use super::sampling::SamplingArgs;
use super::{DeviceArgs, input, progress};

const EXAMPLES: &str = "\
Samplers that are not set are as the model's author recommends in the file, else as the defaults say.

Examples:
  segno run MODEL.gguf                                     chat; /help there lists commands
  segno run -hf USER/REPO:Q4_K_M                           download a model, and chat
  segno run MODEL.gguf -p 'Why is the sky blue?' -n 200    one reply
  segno run MODEL.gguf -f QUESTION.txt --temp 0 > REPLY.txt
  segno run MODEL.gguf -c 32768 -ctk q8_0 -ctv q8_0        a long context in less memory";

/// Chat with a model, or answer one prompt.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
// Parts with a heading of their own come last: what follows one falls under it.
pub struct RunArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Answer this prompt and end
    #[arg(short, long, value_name = "TEXT", conflicts_with = "file")]
    prompt: Option<String>,
    /// Answer the prompt in this file and end (- is standard input)
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Most tokens of a reply [default: up to the context's end]
    #[arg(short = 'n', long = "predict", value_name = "N")]
    max_tokens: Option<usize>,
    /// System prompt
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Continue the prompt as it is, without the chat template
    #[arg(long)]
    no_chat: bool,
    /// Tokens of context; 0: all that the model was trained on [default: that, at most 8192]
    #[arg(short, long = "ctx-size", value_name = "N", help_heading = "Memory")]
    context: Option<u32>,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    checkpoints: CheckpointArgs,
}

#[derive(clap::Parser)]
struct Defaults {
    #[command(flatten)]
    args: RunArgs,
}

impl Default for RunArgs {
    fn default() -> Self {
        <Defaults as clap::Parser>::parse_from(["segno"]).args
    }
}

impl RunArgs {
    /// The prompt of `-p`, `-f` or a standard input that is not a terminal.
    fn prompt(&self) -> anyhow::Result<Option<String>> {
        let text = input::read(self.prompt.as_deref(), self.file.as_deref())?;
        text.map(String::from_utf8).transpose().context("the prompt is not UTF-8 text")
    }
}

/// Ctrl-C stops the reply under way, if there is one; a second one, or one without a reply, ends the program.
#[derive(Clone, Default)]
struct Interrupt(Arc<Mutex<Option<Cancel>>>);

impl Interrupt {
    fn install() -> anyhow::Result<Self> {
        let interrupt = Interrupt::default();
        let handler = interrupt.clone();
        ctrlc::set_handler(move || match handler.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(reply) => reply.cancel(),
            None => std::process::exit(130),
        })
        .context("cannot listen for Ctrl-C")?;
        Ok(interrupt)
    }

    fn arm(&self, reply: &Reply<'_>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reply.cancel_flag());
    }

    fn disarm(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

pub fn run(args: RunArgs) -> anyhow::Result<()> {
    let prompt = args.prompt()?;
    if prompt.as_ref().is_some_and(|p| p.is_empty()) {
        anyhow::bail!("the prompt is empty; give one with -p, -f or standard input");
    }
    let model = args.model.open()?;
    let mut options = LoadOptions {
        device: args.device.device.clone(),
        threads: args.device.threads.map(|n| n as usize),
        context: args.context,
        k_type: args.cache.k(),
        v_type: args.cache.v(),
        ..LoadOptions::default()
    };
    args.checkpoints.apply(&mut options)?;
    let draws = args.sampling.options(&model, args.max_tokens)?;
    log::info!("samplers: {}", draws.sampling);
    let session = progress::spin("loading the model", || model.load(&options))?;
    let interrupt = Interrupt::install()?;
    match prompt {
        Some(prompt) => answer(&session, &args, &draws, &prompt, &interrupt),
        None if args.no_chat => anyhow::bail!("--no-chat needs a prompt: give one with -p, -f or standard input"),
        None => converse(&session, &args, &draws, &interrupt),
    }
}

/// One reply.
fn answer(
    session: &Session,
    args: &RunArgs,
    options: &GenerateOptions,
    prompt: &str,
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    let mut chat = session.chat();
    let mut reply = match args.no_chat {
        true => session.complete(prompt, options),
        false => {
            if let Some(system) = &args.system {
                chat.push("system", system);
            }
            chat.user(prompt);
            chat.reply(options)?
        }
    };
    interrupt.arm(&reply);
    let result = print_reply(&mut reply);
    interrupt.disarm();
    result?;
    print_timings(&reply);
    Ok(())
}

/// Prints a reply as it comes.
fn print_reply(reply: &mut Reply<'_>) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let bar = ProgressBar::new(0).with_style(
        ProgressStyle::with_template("reading the prompt {bar:30} {pos}/{len}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    loop {
        let piece = reply.next_with(|done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        });
        bar.finish_and_clear();
        let Some(piece) = piece else { break };
        out.write_all(piece?.as_bytes())?;
        out.flush()?;
    }
    writeln!(out)?;
    Ok(())
}

fn rate(tokens: usize, time: Duration) -> String {
    format!("{tokens} tokens in {:.2} s, {:.1} t/s", time.as_secs_f64(), tokens as f64 / time.as_secs_f64().max(1e-9))
}

fn print_timings(reply: &Reply<'_>) {
    let Some(report) = reply.report() else { return };
    log::info!("{}", explain(reply.session().model(), reply.prompt(), report));
    let read = report.prompt_tokens - report.reused_tokens;
    let end = match report.finish {
        Finish::Stop => "",
        Finish::Length => " (stopped at -n)",
        Finish::Context => " (the context is full; raise -c)",
        Finish::Cancelled => " (stopped)",
    };
    eprintln!(
        "[prompt {}{}; reply {}{end}]",
        rate(read, report.prompt_time),
        if report.reused_tokens > 0 { format!(", {} reused", report.reused_tokens) } else { String::new() },
        // The first token is the prompt's.
        rate(report.generated_tokens.saturating_sub(1), report.generation_time),
    );
}

const HELP: &str = "\
/undo    take the last question and its reply back
/edit N  replace message N, as /list numbers them, and drop what follows it
/list    the messages
/branch  remember this conversation and go on with a copy; /branch N: go to another
/save F  write the messages to a file and their states to the folder F.state; /load F: read them
/retry   draw the last reply again
/clear   forget the conversation
/stats   what the last reply cost, and the memory plan
/help    this list
/quit    end (so does Ctrl-D)
A line that ends with \\ goes on in the next. Ctrl-C stops a reply.";

/// A conversation at the terminal.
fn converse(session: &Session, args: &RunArgs, options: &GenerateOptions, interrupt: &Interrupt) -> anyhow::Result<()> {
    let mut editor = rustyline::DefaultEditor::new().context("cannot read from the terminal")?;
    let mut chat = session.chat();
    if let Some(system) = &args.system {
        chat.push("system", system);
    }
    println!("{} on {}. /help lists commands, Ctrl-D ends.", session.model().name(), session.device().name);
    let mut stats = String::from("nothing was said yet");
    let mut branches: Vec<Chat<'_>> = Vec::new();
    let mut current = 0;
    loop {
        let line = match read_message(&mut editor) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                println!("Ctrl-D or /quit ends.");
                continue;
            }
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(error).context("cannot read from the terminal"),
        };
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let _ = editor.add_history_entry(line);
        match line {
            "/quit" | "/exit" | "/bye" => return Ok(()),
            "/help" | "/?" => println!("{HELP}"),
            "/stats" => println!("{stats}\n{}", session.engine().ledger()),
            "/clear" => {
                while chat.messages().last().is_some_and(|m| m.role != "system") {
                    chat.pop();
                }
            }
            "/undo" | "/retry" => {
                if chat.messages().last().is_none_or(|m| m.role != "assistant") {
                    println!("there is nothing to take back");
                    continue;
                }
                chat.pop();
                if line == "/undo" {
                    chat.pop();
                } else {
                    stats = say(&mut chat, options, interrupt)?;
                }
            }
            "/list" => {
                for (i, message) in chat.messages().iter().enumerate() {
                    let content = message.content.as_str().unwrap_or_default();
                    println!("{i:>3} {}: {}", message.role, content.lines().next().unwrap_or_default());
                }
            }
            _ if line.starts_with("/edit") => {
                let (n, text) = line["/edit".len()..].trim().split_once(' ').unwrap_or_default();
                match n.parse::<usize>() {
                    Ok(n) if n < chat.messages().len() && !text.trim().is_empty() => {
                        chat.edit(n, text.trim());
                        chat.truncate(n + 1);
                        if chat.messages()[n].role == "user" {
                            stats = say(&mut chat, options, interrupt)?;
                        }
                    }
                    _ => println!("/edit N TEXT: N is one of the numbers that /list shows"),
                }
            }
            _ if line == "/branch" || line.starts_with("/branch ") => {
                branches.resize_with(branches.len().max(current + 1), || session.chat());
                branches[current] = chat.clone();
                match line["/branch".len()..].trim().parse::<usize>() {
                    Ok(n) if n < branches.len() => current = n,
                    Ok(n) => {
                        println!("there is no branch {n}; there are 0 to {}", branches.len() - 1);
                        continue;
                    }
                    Err(_) => {
                        current = branches.len();
                        branches.push(chat.clone());
                    }
                }
                chat = branches[current].clone();
                println!("this is branch {current} of {}", branches.len());
            }
            _ if line.starts_with("/save ") || line.starts_with("/load ") => {
                let path = line["/save ".len()..].trim();
                let done = if line.starts_with("/save") { chat.save(path) } else { chat.load(path) };
                match done {
                    Ok(()) => {
                        let folder = format!("{path}.state");
                        let states = match line.starts_with("/save") {
                            true => chat.save_states(&folder),
                            false => chat.load_states(&folder),
                        };
                        let n = chat.messages().len();
                        match states {
                            Ok(tokens) => println!("{n} messages, and the state after {tokens} tokens"),
                            Err(error) => println!("{n} messages, no state: {error}"),
                        }
                    }
                    Err(error) => println!("{path}: {error}"),
                }
            }
            _ if line.starts_with('/') => println!("there is no command {line}; /help lists them"),
            _ => {
                chat.user(line);
                stats = say(&mut chat, options, interrupt)?;
            }
        }
    }
}

fn read_message(editor: &mut rustyline::DefaultEditor) -> Result<String, ReadlineError> {
    let mut message = editor.readline("> ")?;
    while let Some(begun) = message.strip_suffix('\\') {
        message = format!("{begun}\n{}", editor.readline("… ")?);
    }
    Ok(message)
}

/// Prints the model's reply and keeps it; an error takes the question back.
fn say(chat: &mut Chat<'_>, options: &GenerateOptions, interrupt: &Interrupt) -> anyhow::Result<String> {
    let told = (|| -> anyhow::Result<(String, String)> {
        let mut reply = chat.reply(options)?;
        interrupt.arm(&reply);
        let result = print_reply(&mut reply);
        interrupt.disarm();
        result?;
        let stats = reply.report().map(|r| explain(reply.session().model(), reply.prompt(), r)).unwrap_or_default();
        log::info!("{stats}");
        Ok((reply.text().to_string(), stats))
    })();
    match told {
        Ok((text, stats)) => {
            chat.assistant(&text);
            Ok(stats)
        }
        Err(error) if error.downcast_ref::<Error>().is_some() => {
            eprintln!("error: {error:#}");
            chat.pop();
            Ok(String::from("the last reply failed"))
        }
        Err(error) => Err(error),
    }
}
