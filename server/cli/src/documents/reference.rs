//! `docs/configuration.md` is printed from the flags, and says what they are.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;
use std::fs;

use clap::builder::ValueRange;
use clap::{Arg, ArgAction, Command, CommandFactory};

use super::root;
use crate::args::Cli;

/// Refreshes the document instead of comparing it.
const UPDATE: &str = "MEETPOINT_UPDATE";
/// Commands with a section of their own. What at least [`SHARED`] of the others have in common has one too.
const PROGRAMS: [&str; 2] = ["serve", "node"];
/// See [`PROGRAMS`].
const SHARED: usize = 3;
/// Nobody would mean it: what a flag answers to this tells what it takes.
const NONSENSE: &str = "?\u{1}";

const INTRODUCTION: &str = "# Configuration

Every setting is a flag, and nearly every flag is an environment variable too. This page is printed from the
program's own list: `MEETPOINT_UPDATE=1 cargo test -p meetpoint-cli configuration` prints it anew. `meetpoint serve --help`
says the same on your machine.

";

const HABITS: &str = "* What may be given several times is a list with commas in its variable: `MEETPOINT_STUN=203.0.113.10:3478,203.0.113.11:3478`.
* A flag without a value is `true` or `false` in its variable: `MEETPOINT_OPEN_JOIN=true`.
* Secrets belong in files or variables, not in flags: other users of a machine see its command lines.
* A value that can't be is refused at the start, with exit code 2 and the name of its flag.
";

const LOG: &str = "* `MEETPOINT_LOG` sets what is logged: a level (`debug`), or a list of `module=level`. If it is not set: `warn,meetpoint=info`.
";

/// A flag as the page shows it.
struct Flag {
    name: String,
    variable: String,
    default: String,
    allowed: String,
    meaning: String,
}

/// The commands that do something, each with the words that lead to it.
fn leaves<'a>(command: &'a Command, path: &[&'a str]) -> Vec<(Vec<&'a str>, &'a Command)> {
    let below = command.get_subcommands().filter(|command| command.get_name() != "help");
    let found = below.flat_map(|below| leaves(below, &[path, &[below.get_name()]].concat()));
    let found = found.collect::<Vec<_>>();
    if found.is_empty() { vec![(path.to_vec(), command)] } else { found }
}

/// The flags of a command, in its order.
fn flags(command: &Command) -> impl Iterator<Item = &Arg> {
    let is_flag = |arg: &&Arg| {
        let asks = matches!(
            arg.get_action(),
            ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
        );
        arg.get_long().is_some() && !arg.is_hide_set() && !arg.is_global_set() && !asks
    };
    command.get_arguments().filter(is_flag)
}

fn code(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("`{text}`") }
}

/// What a reader may write, from the flag's own list, or else from its own complaint.
fn allowed(path: &[&str], arg: &Arg) -> String {
    let takes_values = arg.get_action().takes_values();
    let listed = arg.get_possible_values();
    let names = listed.iter().filter(|value| !value.is_hide_set()).map(|value| code(value.get_name()));
    let one = match names.collect::<Vec<_>>() {
        _ if !takes_values => String::new(),
        names if !names.is_empty() => names.join(", "),
        _ => complaint(path, arg).unwrap_or_default(),
    };
    let is_list = matches!(arg.get_action(), ArgAction::Append)
        || arg.get_num_args().is_some_and(|range| range.max_values() > ValueRange::SINGLE.max_values());
    let several = if is_list { "may be repeated" } else { "" };
    let parts = [one.as_str(), several].into_iter().filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("; ")
}

/// What the flag says it expects, when it is given nonsense.
fn complaint(path: &[&str], arg: &Arg) -> Option<String> {
    let nonsense = format!("--{}={NONSENSE}", arg.get_long()?);
    let words = ["meetpoint"].iter().chain(path).map(|word| (*word).to_owned()).chain([nonsense]);
    let error = Cli::command().try_get_matches_from(words).err()?;
    let source = error.source()?;
    if source.is::<std::num::ParseIntError>() {
        return Some("a number".to_owned());
    }
    source.to_string().strip_prefix("expected ").map(str::to_owned)
}

fn flag(path: &[&str], arg: &Arg) -> Flag {
    let long = arg.get_long().unwrap_or_default();
    let values = arg.get_value_names().filter(|_| arg.get_action().takes_values()).unwrap_or_default();
    let value = values.first().map(|name| format!(" {name}")).unwrap_or_default();
    let variable = arg.get_env().and_then(|name| name.to_str()).unwrap_or_default();
    let defaults = arg.get_default_values().iter().map(|value| value.to_string_lossy());
    let default = defaults.collect::<Vec<_>>().join(",");
    let takes_values = arg.get_action().takes_values();
    let help = arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string).unwrap_or_default();
    Flag {
        name: code(&format!("--{long}{value}")),
        variable: code(variable),
        default: if takes_values { code(&default) } else { String::new() },
        allowed: allowed(path, arg),
        meaning: help.split_whitespace().collect::<Vec<_>>().join(" "),
    }
}

fn table(page: &mut String, flags: impl Iterator<Item = Flag>) {
    let cell = |text: &str| text.replace('|', "\\|").replace('<', "&lt;");
    page.push_str("\n| flag | variable | default | allowed | meaning |\n| --- | --- | --- | --- | --- |\n");
    for Flag { name, variable, default, allowed, meaning } in flags {
        let cells = [name, variable, default, allowed, meaning].map(|text| cell(&text));
        let _ = writeln!(page, "| {} |", cells.join(" | "));
    }
}

/// One command's flags, by the headings of its help.
fn section(page: &mut String, command: &Command) {
    let name = command.get_name();
    let _ = write!(page, "\n## meetpoint {name}\n");
    let mut headings: Vec<Option<&str>> = Vec::new();
    for heading in flags(command).map(Arg::get_help_heading) {
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    for heading in headings {
        if let Some(heading) = heading {
            let _ = write!(page, "\n### {heading}\n");
        }
        let of_heading = flags(command).filter(|arg| arg.get_help_heading() == heading);
        table(page, of_heading.map(|arg| flag(&[name], arg)));
    }
}

/// What the operator's commands have in common; each one's own flags are in its help.
fn shared(page: &mut String, command: &Command) {
    let mut by_name: Vec<(&str, Vec<Flag>)> = Vec::new();
    for (path, command) in leaves(command, &[]).into_iter().filter(|(path, _)| !PROGRAMS.contains(&path[0])) {
        for arg in flags(command) {
            let long = arg.get_long().unwrap_or_default();
            match by_name.iter_mut().find(|(name, _)| *name == long) {
                Some((_, all)) => all.push(flag(&path, arg)),
                None => by_name.push((long, vec![flag(&path, arg)])),
            }
        }
    }
    page.push_str(
        "\n## The operator's commands\n\nWhat most of them take. Each one's own flags are in its `--help`.\n",
    );
    let shared = by_name.into_iter().map(|(_, all)| all).filter(|all| all.len() >= SHARED);
    table(page, shared.filter_map(usual));
}

/// The one that most commands say.
fn usual(all: Vec<Flag>) -> Option<Flag> {
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for flag in &all {
        *count.entry(flag.meaning.clone()).or_default() += 1;
    }
    all.into_iter().rev().max_by_key(|flag| count[&flag.meaning])
}

/// What holds for all flags, as far as there are such flags.
fn introduction(command: &Command) -> String {
    let serve = command.find_subcommand("serve").into_iter().flat_map(flags);
    let all = serve.chain(command.get_arguments()).collect::<Vec<_>>();
    let order = if all.iter().any(|arg| arg.get_long() == Some("config")) {
        "* A flag counts before its variable, that before the file of `--config`, and that before the default."
    } else {
        "* A flag counts before its variable, and that before the default."
    };
    let is_log = |arg: &&Arg| arg.get_env().is_some_and(|name| name == "MEETPOINT_LOG");
    let log = if all.iter().any(is_log) { "" } else { LOG };
    format!("{INTRODUCTION}{order}\n{HABITS}{log}")
}

fn page() -> String {
    let mut command = Cli::command();
    command.build();
    let mut page = introduction(&command);
    let everywhere = command.get_arguments().filter(|arg| arg.is_global_set());
    page.push_str("\n## Every command\n");
    table(&mut page, everywhere.map(|arg| flag(&[], arg)));
    for name in PROGRAMS {
        section(&mut page, command.find_subcommand(name).expect("a command"));
    }
    shared(&mut page, &command);
    page
}

#[test]
fn the_configuration_reference_is_printed_from_the_flags() {
    let (path, page) = (root().join("docs/configuration.md"), page());
    if std::env::var_os(UPDATE).is_some() {
        fs::write(&path, &page).expect("the document is written");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page,
        "docs/configuration.md is not what the flags say: {UPDATE}=1 cargo test -p meetpoint-cli configuration"
    );
}
