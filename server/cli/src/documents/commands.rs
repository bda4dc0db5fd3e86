//! Each `meetpoint` command line in a document is one that the program takes: its commands, its flags, and their values
//! where they are no placeholders.

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory};

use super::{Document, Line, all};
use crate::args::Cli;

/// Blocks of code that a reader would paste into a shell.
const SHELLS: [&str; 4] = [CONSOLE, "sh", "bash", "shell"];
/// A block with what was typed and what came of it.
const CONSOLE: &str = "console";
/// What stands for more of the same kind.
const MORE: &str = "...";

/// A command line, and whether it is one that a reader would run as it stands.
#[derive(Debug, Clone)]
struct Shown {
    place: String,
    words: Vec<String>,
    is_whole: bool,
}

/// Splits a line of a shell: quotes keep words together, and operators end a command.
fn commands(line: &str) -> Vec<Vec<String>> {
    let mut all = vec![vec![]];
    let (mut word, mut quote): (Option<String>, Option<char>) = (None, None);
    for c in line.chars().chain(['\n']) {
        match (c, quote) {
            (c, Some(end)) if c == end => quote = None,
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() || matches!(c, ';' | '|' | '&' | '>' | '(' | ')') => {
                let last = all.len() - 1;
                all[last].extend(word.take());
                if !c.is_whitespace() {
                    all.push(vec![]);
                }
            }
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    all
}

/// The arguments of the program, if these words run it.
fn arguments(words: &[String]) -> Option<Vec<String>> {
    let is_variable = |word: &&String| word.split_once('=').is_some_and(|(name, _)| !name.contains('-'));
    let before = words.iter().take_while(|word| *word == "$" || *word == "sudo" || is_variable(word)).count();
    let words = &words[before..];
    let own = match words.first()?.as_str() {
        "meetpoint" => &words[1..],
        "cargo" => after_cargo(words)?,
        _ => return None,
    };
    // What follows is a comment, or stands for whatever the reader chooses, such as the command itself.
    let is_open = |word: &str| word.starts_with(['#', '<', '[']) || word == "COMMAND";
    Some(own.iter().take_while(|word| !is_open(word)).cloned().collect())
}

/// The arguments of the program that `cargo run` runs, if that is this one.
fn after_cargo(words: &[String]) -> Option<&[String]> {
    let end = words.iter().position(|word| word == "--")?;
    let names_another = |word: &String| ["-p", "--package", "--bin", "--example"].contains(&word.as_str());
    let is_ours = words.get(1)? == "run" && !words[..end].iter().any(names_another);
    is_ours.then(|| &words[end + 1..])
}

/// Lines that end with a backslash go on in the next one.
fn joined<'a>(lines: impl Iterator<Item = &'a Line>) -> Vec<(&'a Line, String)> {
    let mut whole: Vec<(&Line, String)> = Vec::new();
    let mut goes_on = false;
    for line in lines {
        let text = line.text.trim_end();
        let (part, more) = text.strip_suffix('\\').map_or((text, false), |part| (part, true));
        match whole.last_mut().filter(|_| goes_on) {
            Some((_, former)) => former.push_str(part),
            None => whole.push((line, part.to_owned())),
        }
        goes_on = more;
    }
    whole
}

/// Of `a|b` each.
fn alternatives(words: &[String]) -> Vec<Vec<String>> {
    let mut all = vec![vec![]];
    for word in words {
        let choices = if word.starts_with('-') { vec![word.as_str()] } else { word.split('|').collect() };
        let with =
            |choice: &&str, former: &Vec<String>| [former.clone(), vec![(*choice).to_owned()]].concat();
        all = choices.iter().flat_map(|choice| all.iter().map(move |former| with(choice, former))).collect();
    }
    all
}

fn shown(document: &Document) -> Vec<Shown> {
    let is_shell = |line: &&Line| line.code.as_deref().is_some_and(|word| SHELLS.contains(&word));
    // Among what a console shows only what follows a prompt was typed.
    let is_typed = |line: &Line, text: &str| line.code.as_deref() != Some(CONSOLE) || text.starts_with("$ ");
    let mut found = Vec::new();
    let lines = joined(document.lines.iter().filter(is_shell));
    for (line, text) in lines.into_iter().filter(|(line, text)| is_typed(line, text)) {
        let all = commands(&text).into_iter().filter_map(|words| arguments(&words));
        found.extend(all.map(|words| Shown { place: document.place(line), words, is_whole: true }));
    }
    for line in document.lines.iter().filter(|line| line.code.is_none()) {
        let (spans, _) = line.spans();
        for span in spans.into_iter().filter(|span| span.starts_with("meetpoint ")) {
            let words = span.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            let words = arguments(&words).unwrap_or_default();
            let place = document.place(line);
            let some = |words| Shown { place: place.clone(), words, is_whole: false };
            found.extend(alternatives(&words).into_iter().map(some));
        }
    }
    found
}

/// The program's command line, with each value a text: so that placeholders do not hide what comes after them.
fn lenient(command: Command) -> Command {
    command
        .mut_args(|arg| {
            let takes_values = arg.get_action().takes_values();
            if takes_values { arg.value_parser(ValueParser::os_string()) } else { arg }
        })
        .mut_subcommands(lenient)
}

/// A value that stands for another: `NAME`, `mpj1...`, `HOST:PORT`, `$URL`.
fn is_placeholder(value: &str) -> bool {
    let mut words = value.split(|c: char| !c.is_ascii_alphanumeric());
    value.contains(MORE)
        || value.contains('$')
        || words.any(|word| word.len() > 1 && word.bytes().all(|b| b.is_ascii_uppercase()))
}

/// The words without those that only say that there is more: at the end, or where no flag waits for a value.
fn without_more(words: &[String]) -> Vec<String> {
    let is_value = |at: usize| {
        let follows_flag = at.checked_sub(1).is_some_and(|before| words[before].starts_with("--"));
        follows_flag && at + 1 < words.len()
    };
    let kept = words.iter().enumerate().filter(|(at, word)| *word != MORE || is_value(*at));
    kept.map(|(_, word)| word.clone()).collect()
}

/// What is wrong with a command line, if anything is.
fn wrong(shown: &Shown) -> Option<String> {
    let kept = without_more(&shown.words);
    let is_part = !shown.is_whole || kept.len() < shown.words.len();
    let words = [vec!["meetpoint".to_owned()], kept].concat();
    for command in [lenient(Cli::command()), Cli::command()] {
        let Err(error) = command.try_get_matches_from(&words) else { continue };
        let value = match error.get(ContextKind::InvalidValue) {
            Some(ContextValue::String(value)) => value,
            _ => "",
        };
        let is_forgiven = match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => true,
            ErrorKind::MissingRequiredArgument
            | ErrorKind::MissingSubcommand
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => is_part,
            // A flag without its value is one that is only named.
            ErrorKind::InvalidValue | ErrorKind::ValueValidation if value.is_empty() => is_part,
            ErrorKind::InvalidValue | ErrorKind::ValueValidation => is_placeholder(value),
            _ => false,
        };
        if !is_forgiven {
            return Some(format!("{}: {}: {error}", shown.place, words.join(" ")));
        }
    }
    None
}

#[test]
fn every_command_line_is_one_that_the_program_takes() {
    let shown = all().iter().flat_map(shown).collect::<Vec<_>>();
    let wrong = shown.iter().filter_map(wrong).collect::<Vec<_>>();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(shown.len() > 40, "command lines are not found: {}", shown.len());
}

#[test]
fn what_is_wrong_is_found() {
    let check = |line: &str, is_whole: bool, expect: bool| {
        let words =
            commands(line).iter().find_map(|words| arguments(words)).expect("a command of the program");
        let shown = Shown { place: "here".to_owned(), words, is_whole };
        assert_eq!(wrong(&shown).is_some(), expect, "{line}: {:?}", wrong(&shown));
    };
    check("$ meetpoint serve --seed main@203.0.113.10:8080 --data /tmp/x", true, false);
    check("$ meetpoint serve --sed main@203.0.113.10:8080", true, true);
    check("$ meetpoint serve --seed main", true, true);
    check("$ meetpoint serve --seed NAME@HOST:PORT --data", true, true);
    check("$ meetpoint node --rendezvous https://203.0.113.10:8080", true, true);
    check("$ meetpoint node --rendezvous https://203.0.113.10:8080 ...", true, false);
    check("$ X=1 meetpoint node --name a --rendezvous $URL --fingerprint ... --ech", true, true);
    check("$ cargo run --release -- demo --once | tee file", true, false);
    check("$ meetpoint node --fingerprint ... --name a --seed NAME@HOST:PORT", true, false);
    check("$ meetpoint nodes [OPTIONS]", true, false);
    check("meetpoint COMMAND --help", false, false);
    check("meetpoint tokens", false, false);
    check("meetpoint tokens mint", false, true);
    check("meetpoint audit verify --head", false, false);
}
