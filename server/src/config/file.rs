//! Values from a file, and where each value came from.
//!
//! The keys of the file are the names of the flags. A flag on the command line counts before the
//! environment, and that before the file; where none of them says anything the default holds. The file's
//! values are parsed by the very flags, so they are named, checked and refused alike.
//!
//! Flags and environment of a process can't change. So an [`Invocation`] keeps them, and whoever wants to know
//! what the file says by now reads it once more.

use std::error::Error as _;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::ContextKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use thiserror::Error;
use toml::Value;

/// The flag that names the file, by its id and its long name.
const CONFIG: &str = "config";
/// Flags that have no value.
const PAGES: [&str; 2] = ["help", "version"];
/// A name is suggested if it is about this alike, from 0 to 1: a slip of the finger or two.
const ALIKE: f64 = 0.75;

/// How the process was called. Reading it again gives what the file says then.
#[derive(Debug, Clone)]
pub struct Invocation {
    command: Command,
    subcommand: Option<&'static str>,
    argv: Vec<OsString>,
}

/// What flags, environment and file say together.
#[derive(Debug)]
pub struct Layered {
    /// For the command's own types.
    pub matches: ArgMatches,
    /// Each value, in the order of the help. Empty for other subcommands.
    pub settings: Vec<Setting>,
}

/// A value, and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The flag without its dashes, which is the key in the file.
    pub name: String,
    /// Under which heading of the help it stands.
    pub heading: Option<String>,
    /// The environment variable that sets it too.
    pub env: Option<String>,
    /// As they were given; none if nothing is said and there is no default. Those of a secret are left out.
    pub values: Vec<String>,
    /// The values are not to be shown.
    pub is_secret: bool,
    /// Who says so.
    pub origin: Origin,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag,
    /// The environment variable of [`Setting::env`].
    Environment,
    /// The file of `--config`.
    File(PathBuf),
    /// Nobody said anything.
    Default,
}

/// Why flags, environment and file together are refused. Nothing was changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LayerError {
    /// A flag or the environment; also the wish to see the help.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// The file can't be read.
    #[error("--config {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("--config {}: line {line}: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// There is no such flag.
    #[error("--config {}: there is no {key}{}", path.display(), did_you_mean(nearest))]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// What it says.
        key: String,
        /// What may have been meant.
        nearest: Option<String>,
    },
    /// A value that the flag does not take.
    #[error("--config {}: {key} = {value}: {reason}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The flag without its dashes.
        key: String,
        /// As the file has it.
        value: String,
        /// What is allowed.
        reason: String,
    },
}

fn did_you_mean(nearest: &Option<String>) -> String {
    match nearest {
        Some(name) => format!("; did you mean {name}?"),
        None => "; the keys are the names of the flags, which --help lists".to_owned(),
    }
}

/// What a file adds to the command line.
struct Addition {
    key: String,
    /// Its value for a message.
    shown: String,
    args: Vec<OsString>,
}

impl Invocation {
    /// A command, or the subcommand of it, whose flags a file may set, and what the process was called with, its
    /// name first. A subcommand of that name may also stand deeper, as in `config explain serve`.
    #[must_use]
    pub fn new(
        mut command: Command,
        subcommand: Option<&'static str>,
        argv: impl IntoIterator<Item = OsString>,
    ) -> Self {
        // Flags of the command that hold for subcommands too become theirs by this.
        command.build();
        Self { command, subcommand, argv: argv.into_iter().collect() }
    }

    /// Reads it all: the file as it is now.
    ///
    /// # Errors
    /// [`LayerError`] names the file, the key, the value and what is allowed.
    pub fn read(&self) -> Result<Layered, LayerError> {
        // A flag may need another one that only the file has, so what is wrong is not asked yet.
        let first = self.command.clone().ignore_errors(true).try_get_matches_from(&self.argv).ok();
        let given = first.as_ref().and_then(|matches| self.part(matches));
        let path = given.and_then(|given| given.try_get_one::<PathBuf>(CONFIG).ok().flatten());
        let (Some(given), Some(path)) = (given, path) else {
            return Ok(self.layered(self.parse(&[])?, None));
        };
        let additions = self.additions(path, given)?;
        match self.parse(&additions) {
            Ok(matches) => Ok(self.layered(matches, Some((path, &additions)))),
            Err(error) => Err(blame(error, path, additions)),
        }
    }

    fn parse(&self, additions: &[Addition]) -> Result<ArgMatches, clap::Error> {
        let added = additions.iter().flat_map(|addition| &addition.args);
        self.command.clone().try_get_matches_from(self.argv.iter().chain(added))
    }

    /// What was said for the flags that a file may set.
    fn part<'a>(&self, matches: &'a ArgMatches) -> Option<&'a ArgMatches> {
        let Some(wanted) = self.subcommand else { return Some(matches) };
        let deeper = |(_, inner): &(&str, &'a ArgMatches)| inner.subcommand();
        let mut chain = std::iter::successors(matches.subcommand(), deeper);
        chain.find(|(name, _)| *name == wanted).map(|(_, part)| part)
    }

    fn flags(&self) -> impl Iterator<Item = (&Arg, &str)> {
        let command = self.subcommand.and_then(|name| self.command.find_subcommand(name));
        let args = command.unwrap_or(&self.command).get_arguments();
        let named = args.filter_map(|arg| Some((arg, arg.get_long()?)));
        named.filter(|(_, long)| !PAGES.contains(long))
    }

    /// What the file says of which the command line and the environment say nothing.
    fn additions(&self, path: &Path, given: &ArgMatches) -> Result<Vec<Addition>, LayerError> {
        let mut additions = Vec::new();
        for (key, value) in table(path)? {
            // A file does not name another one.
            let flags = || self.flags().filter(|(_, long)| *long != CONFIG);
            let Some((arg, _)) = flags().find(|(_, long)| *long == key) else {
                let alike = flags().map(|(_, long)| (strsim::jaro_winkler(long, &key), long));
                let nearest = alike.filter(|(alike, _)| *alike > ALIKE).max_by(|a, b| a.0.total_cmp(&b.0));
                let nearest = nearest.map(|(_, long)| long.to_owned());
                return Err(LayerError::UnknownKey { path: path.to_path_buf(), key, nearest });
            };
            let shown = if arg.is_hide_env_values_set() { "(hidden)".to_owned() } else { value.to_string() };
            let args = match arguments(arg, &key, &value) {
                Ok(args) => args,
                Err(reason) => {
                    let (path, reason) = (path.to_path_buf(), reason.to_owned());
                    return Err(LayerError::Value { path, key, value: shown, reason });
                }
            };
            let said = given.value_source(arg.get_id().as_str());
            if !matches!(said, Some(ValueSource::CommandLine | ValueSource::EnvVariable)) {
                additions.push(Addition { key, shown, args });
            }
        }
        Ok(additions)
    }

    fn layered(&self, matches: ArgMatches, file: Option<(&Path, &[Addition])>) -> Layered {
        let Some(part) = self.part(&matches) else { return Layered { matches, settings: Vec::new() } };
        let setting = |(arg, long): (&Arg, &str)| {
            let from_file = file.filter(|(_, added)| added.iter().any(|addition| addition.key == long));
            let told = Setting::of(arg, long, part);
            let origin = from_file.map_or(told.origin, |(path, _)| Origin::File(path.to_path_buf()));
            Setting { origin, ..told }
        };
        let settings = self.flags().map(setting).collect();
        Layered { matches, settings }
    }
}

impl Setting {
    /// What command line, environment and default say together.
    #[must_use]
    pub fn of(arg: &Arg, long: &str, matches: &ArgMatches) -> Self {
        let id = arg.get_id().as_str();
        let origin = match matches.value_source(id) {
            Some(ValueSource::CommandLine) => Origin::Flag,
            Some(ValueSource::EnvVariable) => Origin::Environment,
            _ => Origin::Default,
        };
        let is_secret = arg.is_hide_env_values_set();
        let values = matches.get_raw(id).into_iter().flatten().filter(|_| !is_secret);
        Self {
            name: long.to_owned(),
            heading: arg.get_help_heading().map(str::to_owned),
            env: arg.get_env().map(|name| name.to_string_lossy().into_owned()),
            values: values.map(|value| value.to_string_lossy().into_owned()).collect(),
            is_secret,
            origin,
        }
    }
}

fn table(path: &Path) -> Result<toml::Table, LayerError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| LayerError::Read { path: path.to_path_buf(), source })?;
    text.parse::<toml::Table>().map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = 1 + before.matches('\n').count();
        LayerError::Syntax { path: path.to_path_buf(), line, reason: error.message().to_owned() }
    })
}

/// The same on a command line.
fn arguments(arg: &Arg, key: &str, value: &Value) -> Result<Vec<OsString>, &'static str> {
    let is_list = matches!(arg.get_action(), ArgAction::Append);
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        return match value {
            Value::Boolean(true) => Ok(vec![format!("--{key}").into()]),
            Value::Boolean(false) => Ok(Vec::new()),
            _ => Err("expected true or false"),
        };
    }
    let one = |value: &Value| {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Boolean(truth) => truth.to_string(),
            Value::Datetime(_) | Value::Array(_) | Value::Table(_) => {
                return Err("expected a text, a number, true or false, or a list of these");
            }
        };
        Ok(format!("--{key}={text}").into())
    };
    match value {
        Value::Array(_) if !is_list => Err("expected one value and no list"),
        Value::Array(all) => all.iter().map(one).collect(),
        value => Ok(vec![one(value)?]),
    }
}

/// Names the file and its key where the parser's error is about a value of the file.
fn blame(error: clap::Error, path: &Path, additions: Vec<Addition>) -> LayerError {
    let about = error.get(ContextKind::InvalidArg).map(ToString::to_string).unwrap_or_default();
    let about = about.trim_start_matches("--").split([' ', '=', '[']).next().unwrap_or_default();
    let Some(Addition { key, shown, .. }) = additions.into_iter().find(|addition| addition.key == about)
    else {
        return LayerError::Usage(error);
    };
    let allowed = error.get(ContextKind::ValidValue).map(|values| format!("expected one of: {values}"));
    let reason = error.source().map(ToString::to_string).or(allowed);
    let reason = reason.unwrap_or_else(|| error.kind().to_string());
    LayerError::Value { path: path.to_path_buf(), key, value: shown, reason }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::config::ServeArgs;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn read(text: &str, argv: &[&str]) -> Result<(ServeArgs, Vec<Setting>), LayerError> {
        use clap::{CommandFactory, FromArgMatches};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meetpoint.toml");
        std::fs::write(&path, text).unwrap();
        let line = ["serve", "--config", path.to_str().unwrap()].into_iter().chain(argv.iter().copied());
        let invocation = Invocation::new(Flags::command(), None, line.map(OsString::from));
        let layered = invocation.read()?;
        Ok((Flags::from_arg_matches(&layered.matches).unwrap().serve, layered.settings))
    }

    #[test]
    fn a_flag_counts_before_the_file() {
        let text = "http = \"127.0.0.1:81\"\nstun-alt-port = 7001\nopen-join = true\n\
                    relay-allow-peer = [\"10.0.0.0/8\", \"10.1.0.0/16\"]\nadmit-relayed = false";
        let (args, settings) = read(text, &["--http", "127.0.0.1:82"]).unwrap();
        assert_eq!(args.listen.http.port(), 82);
        assert_eq!((args.listen.stun_alt_port, args.access.open_join), (7001, true));
        assert_eq!((args.relay.relay_allow_peers.len(), args.cluster.admit_relayed), (2, Some(false)));
        let origin = |name: &str| {
            let setting = settings.iter().find(|setting| setting.name == name).unwrap();
            let origin = match setting.origin {
                Origin::Flag => "flag",
                Origin::Environment => "environment",
                Origin::File(_) => "file",
                Origin::Default => "default",
            };
            (origin, setting.values.join(" "))
        };
        assert_eq!(origin("http"), ("flag", "127.0.0.1:82".to_owned()));
        assert_eq!(origin("stun-alt-port"), ("file", "7001".to_owned()));
        assert_eq!(origin("relay-allow-peer"), ("file", "10.0.0.0/8 10.1.0.0/16".to_owned()));
        assert_eq!(origin("relay-ports"), ("default", "49152-65535".to_owned()));
        assert!(settings.iter().all(|setting| setting.name != "help"));
    }

    #[test]
    fn a_flag_and_the_file_may_need_each_other() {
        let (args, _) = read("tls-key = \"key.pem\"", &["--tls-cert", "cert.pem"]).unwrap();
        assert!(args.tls.tls_cert.is_some() && args.tls.tls_key.is_some());
    }

    #[test]
    fn what_is_secret_is_not_shown() {
        let token = "0123456789abcdef0123";
        let (_, settings) = read(&format!("admin-token = \"{token}\""), &[]).unwrap();
        assert!(!format!("{settings:?}").contains(token));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |text: &str, argv: &[&str], parts: &[&str]| {
            let error = match read(text, argv) {
                Err(error) => error.to_string(),
                Ok(_) => panic!("{text:?} was taken"),
            };
            for part in parts {
                assert!(error.contains(part), "{part:?} is not in: {error}");
            }
        };
        check("relay-port = \"1-2\"", &[], &["meetpoint.toml: there is no relay-port;", "mean relay-ports?"]);
        check("zebra = 1", &[], &["there is no zebra;", "--help"]);
        check("config = \"x\"", &[], &["there is no config"]);
        check("http = \"here\"", &[], &["http = \"here\"", "expected IP:PORT"]);
        check("http = [\"127.0.0.1:1\"]", &[], &["http = ", "no list"]);
        check("open-join = 1", &[], &["open-join = 1", "true or false"]);
        check("[http]\nport = 1", &[], &["http = ", "a text"]);
        check("\n\nhttp", &[], &["meetpoint.toml: line 3: "]);
        check("stun-alt-port = 70000", &[], &["stun-alt-port = 70000"]);
        check("relay-ip = 5", &["--http", "x"], &["--http"]);
    }
}
