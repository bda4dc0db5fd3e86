//! `meetpoint config`, and what else is made of the command line's own description: completions, manual pages, and
//! what is said of a line that makes no sense.

use std::io::Write;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory};
use serde_json::{Value, json};

use crate::args::{Cli, CompletionsArgs, ConfigArgs, ConfigCommand, ExplainedCommand, ManArgs};
use crate::exit::Failure;
use crate::node;
use crate::operator::table::Table;

/// What is shown in the place of a secret.
const HIDDEN: &str = "(hidden)";

/// A value of the configuration.
pub(crate) struct Setting {
    flag: String,
    variable: Option<String>,
    /// More than one where the flag may be repeated; none where nothing is given and there is no default.
    values: Vec<String>,
    origin: Origin,
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Flag,
    Environment,
    Default,
    Unset,
}

impl Origin {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Environment => "environment",
            Self::Default => "default",
            Self::Unset => "-",
        }
    }

    fn of(matches: &ArgMatches, arg: &Arg) -> Self {
        match matches.value_source(arg.get_id().as_str()) {
            Some(ValueSource::CommandLine) => Self::Flag,
            Some(ValueSource::EnvVariable) => Self::Environment,
            Some(_) => Self::Default,
            None => Self::Unset,
        }
    }
}

/// `meetpoint config`.
pub(crate) fn config(args: ConfigArgs, matches: &ArgMatches) -> Result<(), Failure> {
    let ConfigCommand::Explain { json, command } = args.command;
    let settings = explained(matches);
    if json {
        println!("{}", Value::Array(settings.iter().map(object).collect()));
    } else {
        print!("{}", table(&settings));
    }
    // Said last, where it is seen.
    match command {
        ExplainedCommand::Serve(args) => args.serve.validate().map(drop).map_err(Failure::usage),
        ExplainedCommand::Node(args) => node::builder(&args).map(drop),
    }
}

fn explained(matches: &ArgMatches) -> Vec<Setting> {
    let cli = built();
    let (mut command, mut matches) = (&cli, matches);
    while let Some((name, inner)) = matches.subcommand() {
        let Some(found) = command.find_subcommand(name) else { break };
        (command, matches) = (found, inner);
    }
    settings(command, matches)
}

/// What `serve` would start with by this environment alone.
pub(crate) fn of_environment() -> Result<Vec<Setting>, String> {
    let mut cli = built();
    let matches = cli.try_get_matches_from_mut(["meetpoint", "serve"]).map_err(|error| one_line(&error))?;
    let serve = cli.find_subcommand("serve").zip(matches.subcommand_matches("serve"));
    Ok(serve.map(|(command, matches)| settings(command, matches)).unwrap_or_default())
}

fn built() -> Command {
    let mut cli = Cli::command();
    cli.build();
    cli
}

/// All that a command takes as flags.
fn settings(command: &Command, matches: &ArgMatches) -> Vec<Setting> {
    let flags = command.get_arguments().filter_map(|arg| Some((arg, arg.get_long()?)));
    let mut settings: Vec<Setting> = flags
        .filter(|(_, long)| !["help", "version"].contains(long))
        .map(|(arg, long)| {
            let raw = matches.get_raw(arg.get_id().as_str()).into_iter().flatten();
            let shown = |value: &std::ffi::OsStr| match is_secret(arg) {
                true => HIDDEN.to_owned(),
                false => value.to_string_lossy().into_owned(),
            };
            Setting {
                flag: format!("--{long}"),
                variable: arg.get_env().map(|name| name.to_string_lossy().into_owned()),
                values: raw.map(shown).collect(),
                origin: Origin::of(matches, arg),
            }
        })
        .collect();
    settings.sort_by(|a, b| a.flag.cmp(&b.flag));
    settings
}

/// What help does not show of the environment is nobody else's business either.
fn is_secret(arg: &Arg) -> bool {
    arg.is_hide_env_values_set()
}

/// What the environment gives for secrets, to keep it out of what is passed on.
pub(crate) fn secrets_of_environment() -> Vec<String> {
    let cli = built();
    let args = cli.get_subcommands().flat_map(Command::get_arguments).filter(|arg| is_secret(arg));
    args.filter_map(|arg| std::env::var(arg.get_env()?).ok()).collect()
}

fn object(setting: &Setting) -> Value {
    let Setting { flag, variable, values, origin } = setting;
    json!({ "flag": flag, "variable": variable, "values": values, "origin": origin.as_str() })
}

/// For people.
pub(crate) fn table(settings: &[Setting]) -> String {
    let mut table = Table::new(&["FLAG", "VALUE", "FROM", "VARIABLE"]);
    for Setting { flag, variable, values, origin } in settings {
        let value = if values.is_empty() { "-".to_owned() } else { values.join(",") };
        let from = origin.as_str().to_owned();
        table.row([flag.clone(), value, from, variable.clone().unwrap_or_else(|| "-".to_owned())]);
    }
    table.to_string()
}

/// `meetpoint completions`.
pub(crate) fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "meetpoint", &mut script);
    std::io::stdout().write_all(&script).map_err(|error| Failure::failed(format!("stdout: {error}")))
}

/// `meetpoint man`.
pub(crate) fn man(args: &ManArgs) -> Result<(), Failure> {
    let failed = |error| Failure::failed(format!("{}: {error}", args.dir.display()));
    clap_mangen::generate_to(Cli::command(), &args.dir).map_err(failed)
}

/// What is wrong with a command line, in one line: the flag, what was given, and what may be.
pub(crate) fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    // Whoever wants to know how it is used asks for help; the rest is a sentence in pieces.
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let told = lines.filter(|line| !line.is_empty() && !line.starts_with("For more information"));
    let line = told.collect::<Vec<_>>().join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    let line: String = line.chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect();
    format!("{line} (try --help)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_holds_together() {
        Cli::command().debug_assert();
    }

    /// A flag that is named as if it held a secret is treated as one.
    #[test]
    fn secrets_are_marked() {
        fn check(command: &Command) {
            for arg in command.get_arguments() {
                let Some(long) = arg.get_long() else { continue };
                let by_name = ["token", "secret", "password"].iter().any(|word| long.ends_with(word));
                assert_eq!(is_secret(arg), by_name, "{} --{long}", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&built());
    }
}
