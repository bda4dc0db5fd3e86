//! `meetpoint config`, and what else is made of the command line's own description: completions, manual pages, and
//! what is said of a line that makes no sense.

use std::io::Write;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Arg, ArgMatches, Command, CommandFactory};
use meetpoint_server::{Invocation, LayerError, Layered, Origin, Setting};
use serde_json::{Value, json};

use crate::args::{Cli, CompletionsArgs, ConfigArgs, ConfigCommand, ExplainedCommand, ManArgs};
use crate::exit::Failure;
use crate::node;
use crate::operator::table::Table;

/// What is shown in the place of a secret.
const HIDDEN: &str = "(hidden)";

/// `meetpoint config`.
pub(crate) fn config(args: ConfigArgs, layered: &Layered) -> Result<(), Failure> {
    let ConfigCommand::Explain { json, command } = args.command;
    let settings = explained(layered);
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

fn explained(layered: &Layered) -> Vec<Setting> {
    let mut settings = layered.settings.clone();
    if settings.is_empty() {
        // No file says anything for this command.
        let cli = built();
        let (mut command, mut matches) = (&cli, &layered.matches);
        while let Some((name, inner)) = matches.subcommand() {
            let Some(found) = command.find_subcommand(name) else { break };
            (command, matches) = (found, inner);
        }
        settings = of_command(command, matches);
    }
    settings.sort_by(|a, b| a.name.cmp(&b.name));
    settings
}

/// What `serve` would start with by this environment, and the file that it names, alone.
pub(crate) fn of_environment() -> Result<Vec<Setting>, String> {
    let line = ["meetpoint", "serve"].map(std::ffi::OsString::from);
    let layered = Invocation::new(Cli::command(), Some("serve"), line).read();
    layered.map(|layered| explained(&layered)).map_err(|error| in_one_line(&error))
}

fn built() -> Command {
    let mut cli = Cli::command();
    cli.build();
    cli
}

/// All that a command takes as flags.
fn of_command(command: &Command, matches: &ArgMatches) -> Vec<Setting> {
    let flags = command.get_arguments().filter_map(|arg| Some((arg, arg.get_long()?)));
    let flags = flags.filter(|(_, long)| !["help", "version"].contains(long));
    flags.map(|(arg, long)| Setting::of(arg, long, matches)).collect()
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

/// Who says so, in a word, and the file if it is one.
fn origin(setting: &Setting) -> String {
    match &setting.origin {
        Origin::Flag => "flag".to_owned(),
        Origin::Environment => "environment".to_owned(),
        Origin::File(path) => path.display().to_string(),
        Origin::Default if setting.values.is_empty() => "-".to_owned(),
        Origin::Default => "default".to_owned(),
    }
}

fn values(setting: &Setting) -> Vec<String> {
    match (setting.is_secret, &setting.origin) {
        (true, Origin::Default) | (false, _) => setting.values.clone(),
        (true, _) => vec![HIDDEN.to_owned()],
    }
}

fn object(setting: &Setting) -> Value {
    let flag = format!("--{}", setting.name);
    json!({ "flag": flag, "variable": setting.env, "values": values(setting), "origin": origin(setting) })
}

/// For people.
pub(crate) fn table(settings: &[Setting]) -> String {
    let mut table = Table::new(&["FLAG", "VALUE", "FROM", "VARIABLE"]);
    for setting in settings {
        let values = values(setting);
        let value = if values.is_empty() { "-".to_owned() } else { values.join(",") };
        let variable = setting.env.clone().unwrap_or_else(|| "-".to_owned());
        table.row([format!("--{}", setting.name), value, origin(setting), variable]);
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

/// Says what is wrong with flags, environment and file; help and version are pages and no complaint.
pub(crate) fn complain(error: LayerError) -> ExitCode {
    match error {
        LayerError::Usage(error)
            if matches!(
                error.kind(),
                ErrorKind::DisplayHelp
                    | ErrorKind::DisplayVersion
                    | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            ) =>
        {
            // A terminal that went away is no reason to say anything.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1))
        }
        error => Failure::usage(in_one_line(&error)).report(),
    }
}

pub(crate) fn in_one_line(error: &LayerError) -> String {
    match error {
        LayerError::Usage(error) => one_line(error),
        other => other.to_string(),
    }
}

/// What is wrong with a command line, in one line: the flag, what was given, and what may be.
fn one_line(error: &clap::Error) -> String {
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
