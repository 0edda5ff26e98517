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
    print_reply(&mut reply, interrupt, &mut std::io::stdout().lock())?;
    print_timings(&reply);
    Ok(())
}

/// Prints a reply as it comes, unless it is stopped.
fn print_reply(reply: &mut Reply<'_>, interrupt: &Interrupt, out: &mut impl Write) -> anyhow::Result<()> {
    interrupt.arm(reply);
    let result = print_pieces(reply, out);
    interrupt.disarm();
    result
}

fn print_pieces(reply: &mut Reply<'_>, out: &mut impl Write) -> anyhow::Result<()> {
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

/// Why a reply does not end as the model would end it.
fn end_of(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "",
        Finish::Length => "stopped at -n",
        Finish::Context => "the context is full; raise -c",
        Finish::Cancelled => "stopped",
    }
}

fn print_timings(reply: &Reply<'_>) {
    let Some(report) = reply.report() else { return };
    log::info!("{}", explain(reply.session().model(), reply.prompt(), report));
    let read = report.prompt_tokens - report.reused_tokens;
    let end = match end_of(report.finish) {
        "" => String::new(),
        end => format!(" ({end})"),
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
/edit N TEXT  replace message N, as /list numbers them, and drop what follows it
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
    let mut talk = Talk::new(session, options, interrupt, args.system.as_deref());
    println!("{} on {}. /help lists commands, Ctrl-D ends.", session.model().name(), session.device().name);
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
        if !talk.line(line, &mut std::io::stdout().lock())? {
            return Ok(());
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

/// What lines change.
struct Talk<'s> {
    session: &'s Session,
    options: &'s GenerateOptions,
    interrupt: &'s Interrupt,
    chat: Chat<'s>,
    stats: String,
    /// All branches; the current one as it was when it was left.
    branches: Vec<Chat<'s>>,
    current: usize,
}

impl<'s> Talk<'s> {
    fn new(session: &'s Session, options: &'s GenerateOptions, interrupt: &'s Interrupt, system: Option<&str>) -> Self {
        let mut chat = session.chat();
        if let Some(system) = system {
            chat.push("system", system);
        }
        let branches = vec![chat.clone()];
        Talk { session, options, interrupt, chat, stats: "nothing was said yet".into(), branches, current: 0 }
    }

    /// Whether the last message is of that role.
    fn ends_with(&self, role: &str) -> bool {
        self.chat.messages().last().is_some_and(|m| m.role == role)
    }

    /// Does what a line says, which is not empty; false at the end.
    fn line(&mut self, line: &str, out: &mut impl Write) -> anyhow::Result<bool> {
        let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match (command, rest) {
            ("/quit" | "/exit" | "/bye", "") => return Ok(false),
            ("/help" | "/?", "") => writeln!(out, "{HELP}")?,
            ("/stats", "") => writeln!(out, "{}\n{}", self.stats, self.session.engine().ledger())?,
            ("/clear", "") => while !self.ends_with("system") && self.chat.pop().is_some() {},
            ("/undo", "") => {
                let had_reply = self.ends_with("assistant") && self.chat.pop().is_some();
                let had_question = self.ends_with("user") && self.chat.pop().is_some();
                if !had_reply && !had_question {
                    writeln!(out, "there is nothing to take back")?;
                }
            }
            ("/retry", "") => {
                let last = self.chat.messages().iter().rev().find(|m| m.role != "assistant");
                if last.is_some_and(|m| m.role == "user") {
                    let before = self.chat.clone();
                    while self.ends_with("assistant") {
                        self.chat.pop();
                    }
                    self.say(before, out)?;
                } else {
                    writeln!(out, "there is no question to answer")?;
                }
            }
            ("/list", "") => {
                for (i, message) in self.chat.messages().iter().enumerate() {
                    let content = message.content.as_str().unwrap_or_default();
                    writeln!(out, "{i:>3} {}: {}", message.role, content.lines().next().unwrap_or_default())?;
                }
            }
            ("/edit", _) => self.edit(rest, out)?,
            ("/branch", _) => self.branch(rest, out)?,
            ("/save" | "/load", "") => writeln!(out, "{command} FILE: which file?")?,
            ("/save", path) => {
                let saved = self.chat.save(path);
                self.states(path, saved, |chat, folder| chat.save_states(folder), out)?;
            }
            ("/load", path) => {
                let loaded = self.chat.load(path);
                self.states(path, loaded, |chat, folder| chat.load_states(folder), out)?;
            }
            _ if command.starts_with('/') => writeln!(out, "there is no command {line}; /help lists them")?,
            _ => {
                let before = self.chat.clone();
                self.chat.user(line);
                self.say(before, out)?;
            }
        }
        Ok(true)
    }

    fn edit(&mut self, rest: &str, out: &mut impl Write) -> anyhow::Result<()> {
        let (n, text) = rest.split_once(char::is_whitespace).unwrap_or_default();
        let messages = self.chat.messages().len();
        let Some(n) = n.parse().ok().filter(|&n: &usize| n < messages && !text.trim().is_empty()) else {
            return Ok(writeln!(out, "/edit N TEXT: N is one of the numbers that /list shows")?);
        };
        let before = self.chat.clone();
        self.chat.edit(n, text.trim());
        self.chat.truncate(n + 1);
        if self.ends_with("user") { self.say(before, out) } else { Ok(()) }
    }

    fn branch(&mut self, rest: &str, out: &mut impl Write) -> anyhow::Result<()> {
        let n = if rest.is_empty() { Some(self.branches.len()) } else { rest.parse().ok() };
        let Some(n) = n.filter(|&n| n < self.branches.len() || rest.is_empty()) else {
            let last = self.branches.len() - 1;
            return Ok(writeln!(out, "there is no branch {rest}; there are 0 to {last}")?);
        };
        self.branches[self.current] = self.chat.clone();
        match self.branches.get(n) {
            Some(branch) => self.chat = branch.clone(),
            None => self.branches.push(self.chat.clone()),
        }
        self.current = n;
        Ok(writeln!(out, "this is branch {n}; there are 0 to {}", self.branches.len() - 1)?)
    }

    /// What comes after the messages of a file were saved or loaded: their states.
    fn states(
        &self,
        path: &str,
        done: std::io::Result<()>,
        states: impl FnOnce(&Chat<'_>, &str) -> Result<u32, Error>,
        out: &mut impl Write,
    ) -> anyhow::Result<()> {
        let n = self.chat.messages().len();
        match done.map(|()| states(&self.chat, &format!("{path}.state"))) {
            Ok(Ok(tokens)) => writeln!(out, "{n} messages, and the state after {tokens} tokens")?,
            Ok(Err(error)) => writeln!(out, "{n} messages, no state: {error}")?,
            Err(error) => writeln!(out, "{path}: {error}")?,
        }
        Ok(())
    }

    /// Prints the model's reply and keeps it; after an error the conversation is what it was `before`.
    fn say(&mut self, before: Chat<'s>, out: &mut impl Write) -> anyhow::Result<()> {
        let told = self.chat.reply(self.options).map_err(anyhow::Error::from).and_then(|mut reply| {
            print_reply(&mut reply, self.interrupt, out)?;
            Ok(reply)
        });
        match told {
            Ok(reply) => {
                self.chat.assistant(reply.text());
                if let Some(report) = reply.report() {
                    self.stats = explain(self.session.model(), reply.prompt(), report);
                    log::info!("{}", self.stats);
                    let end = end_of(report.finish);
                    if !end.is_empty() {
                        writeln!(out, "[{end}]")?;
                    }
                }
            }
            Err(error) if error.downcast_ref::<Error>().is_some() => {
                eprintln!("error: {error:#}");
                self.chat = before;
                self.stats = "the last reply failed".into();
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use segno::Model;

    use super::*;

    /// Says lines and returns what is printed.
    fn say(talk: &mut Talk<'_>, lines: &[&str]) -> String {
        let mut out = Vec::new();
        for line in lines {
            assert!(talk.line(line, &mut out).expect("goes on"), "{line} ended it");
        }
        String::from_utf8(out).expect("text")
    }

    fn with_talk(max_tokens: usize, check: impl FnOnce(&mut Talk<'_>)) {
        let load = LoadOptions { device: "cpu".into(), context: Some(200), ..LoadOptions::default() };
        let session = Model::demo().expect("opens").load(&load).expect("loads");
        let options = GenerateOptions { max_tokens: Some(max_tokens), ..GenerateOptions::greedy() };
        check(&mut Talk::new(&session, &options, &Interrupt::default(), Some("Be brief.")));
    }

    #[test]
    fn a_conversation_is_edited_branched_and_taken_back() {
        with_talk(20, |talk| {
            assert_eq!(say(talk, &["What is 7 + 8?"]), "7 + 8 = 15.\n");
            assert_eq!(say(talk, &["/edit 1 What is 2 + 3?"]), "2 + 3 = 5.\n");
            let list = "  0 system: Be brief.\n  1 user: What is 2 + 3?\n  2 assistant: 2 + 3 = 5.\n";
            assert_eq!(say(talk, &["/list"]), list);
            assert_eq!(say(talk, &["/retry"]), "2 + 3 = 5.\n");
            let stats = say(talk, &["/stats"]);
            assert!(stats.contains(", 0 read; restored at ") && stats.contains("(prompt's end, "), "{stats}");
            // A branch changes nothing in the other.
            assert_eq!(say(talk, &["/branch"]), "this is branch 1; there are 0 to 1\n");
            assert_eq!(say(talk, &["/undo", "/list"]), "  0 system: Be brief.\n");
            assert_eq!(say(talk, &["/undo"]), "there is nothing to take back\n");
            assert_eq!(say(talk, &["/retry"]), "there is no question to answer\n");
            say(talk, &["What is 1 + 1?"]);
            assert_eq!(say(talk, &["/branch 0", "/list"]), format!("this is branch 0; there are 0 to 1\n{list}"));
            assert!(say(talk, &["/branch 1", "/list"]).contains("1 + 1"));
            assert_eq!(say(talk, &["/clear", "/list"]), "  0 system: Be brief.\n");
            let mut out = Vec::new();
            assert!(!talk.line("/quit", &mut out).expect("ends"));
        });
    }

    #[test]
    fn a_wrong_argument_changes_nothing_and_is_told() {
        with_talk(20, |talk| {
            say(talk, &["What is 7 + 8?"]);
            let before = say(talk, &["/list"]);
            for (line, expected) in [
                ("/edit", "/edit N TEXT: N is one of the numbers that /list shows"),
                ("/edit 9 no", "/edit N TEXT: N is one of the numbers that /list shows"),
                ("/edit 1", "/edit N TEXT: N is one of the numbers that /list shows"),
                ("/edit x y", "/edit N TEXT: N is one of the numbers that /list shows"),
                ("/branch x", "there is no branch x; there are 0 to 0"),
                ("/branch 1", "there is no branch 1; there are 0 to 0"),
                ("/branch -1", "there is no branch -1; there are 0 to 0"),
                ("/save", "/save FILE: which file?"),
                ("/load", "/load FILE: which file?"),
                ("/load /nowhere/x", "/nowhere/x: No such file"),
                ("/save /nowhere/x", "/nowhere/x: No such file"),
                ("/undo 2", "there is no command /undo 2; /help lists them"),
                ("/dance", "there is no command /dance; /help lists them"),
            ] {
                let told = say(talk, &[line]);
                assert!(told.starts_with(expected), "{line}: {told}");
                assert_eq!(say(talk, &["/list"]), before, "{line}");
            }
        });
    }

    #[test]
    fn a_reply_that_fails_changes_nothing() {
        with_talk(20, |talk| {
            say(talk, &["What is 7 + 8?"]);
            let before = say(talk, &["/list"]);
            let long = "What is 7 + 8? ".repeat(100);
            for line in [long.clone(), format!("/edit 1 {long}")] {
                assert_eq!(say(talk, &[&line, "/list"]), before, "the context has no room for it");
                assert!(say(talk, &["/stats"]).starts_with("the last reply failed"));
            }
            assert_eq!(say(talk, &["/retry"]), "7 + 8 = 15.\n");
        });
    }

    #[test]
    fn a_saved_conversation_goes_on_in_another_run_without_reading() {
        let path = std::env::temp_dir().join(format!("segno-talk-{}.json", std::process::id()));
        let path = path.to_str().expect("a path");
        let mut list = String::new();
        with_talk(20, |talk| {
            say(talk, &["What is 7 + 8?"]);
            let told = say(talk, &[&format!("/save {path}")]);
            assert!(told.starts_with("3 messages, and the state after "), "{told}");
            list = say(talk, &["/list"]);
        });
        with_talk(20, |talk| {
            let told = say(talk, &[&format!("/load {path}")]);
            assert!(told.starts_with("3 messages, and the state after "), "{told}");
            assert_eq!(say(talk, &["/list"]), list);
            assert_eq!(say(talk, &["/retry"]), "7 + 8 = 15.\n");
            assert!(say(talk, &["/stats"]).contains(", 0 read;"));
            // Without the states, the messages are there all the same.
            std::fs::remove_dir_all(format!("{path}.state")).expect("removed");
            assert!(say(talk, &[&format!("/load {path}")]).starts_with("3 messages, no state: "));
            std::fs::write(path, "[{").expect("written");
            let told = say(talk, &[&format!("/load {path}")]);
            assert!(told.starts_with(path) && told.contains("EOF"), "{told}");
            assert_eq!(say(talk, &["/list"]), list);
        });
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn a_reply_that_is_cut_says_so_and_stays() {
        with_talk(3, |talk| {
            assert_eq!(say(talk, &["What is 7 + 8?"]), "7 + \n[stopped at -n]\n");
            assert!(say(talk, &["/list"]).contains("2 assistant: 7 +"));
        });
    }
}
