//! The `meetpoint` command: one binary for the server, a node, the demo and the operator.
//!
//! Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 3 rejected by the cluster,
//! 4 no server answered.

mod args;
mod config;
mod demo;
mod duration;
mod exit;
mod netcheck;
mod node;
mod operator;
mod part;
mod ping;
mod progress;
mod serve;
mod signals;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};

use args::{Cli, Command};
use exit::Failure;

/// The system's allocator keeps what a thread has freed. This one gives it back some seconds later, so
/// that a server is as small after a rush of allocations as it was before.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let (cli, matches) = match parse() {
        Ok(parsed) => parsed,
        Err(code) => return code,
    };
    init_log(cli.log_format);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::failed(format!("no async runtime: {error}")).report(),
    };
    let outcome = runtime.block_on(async {
        match cli.command {
            Command::Serve(args) => serve::run(*args).await,
            Command::Node(args) => node::run(*args).await,
            Command::Demo(args) => demo::run(&args).await,
            Command::Tokens(args) => operator::tokens(args).await,
            Command::Secrets(args) => operator::identity::secrets(args).await,
            Command::Revocations(args) => operator::identity::revocations(args).await,
            Command::Seeds(args) => operator::seeds::seeds(args).await,
            Command::Nodes(args) => operator::nodes(args).await,
            Command::Relay(args) => operator::relay(args).await,
            Command::Audit(args) => operator::audit(args).await,
            Command::Netcheck(args) => netcheck::run(args).await,
            Command::Explain(args) => operator::explain(args).await,
            Command::Status(args) => operator::status(args).await,
            Command::Events(args) => operator::events::events(args).await,
            Command::Backup(args) => operator::backup::backup(args).await,
            Command::Restore(args) => operator::backup::restore_file(args).await,
            Command::Bundle(args) => operator::bundle::bundle(args).await,
            Command::Ping(args) => ping::run(args).await,
            Command::Healthcheck(args) => operator::healthcheck::healthcheck(args).await,
            Command::Config(args) => config::config(args, &matches),
            Command::Completions(args) => config::completions(&args),
            Command::Man(args) => config::man(&args),
        }
    });
    // Tasks that outlive their purpose (a name lookup in a blocking thread) must not hold up the exit.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// The command line, and what it was made of. Else it is told what is wrong with it, or what was asked for.
fn parse() -> Result<(Cli, clap::ArgMatches), ExitCode> {
    let parsed = Cli::command().try_get_matches().and_then(|matches| {
        let cli = Cli::from_arg_matches(&matches)?;
        Ok((cli, matches))
    });
    parsed.map_err(|error| match error.kind() {
        // These are no complaints but pages.
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // A terminal that went away is no reason to say anything.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1))
        }
        _ => Failure::usage(config::one_line(&error)).report(),
    })
}

const DEFAULT_LOG: &str = "warn,meetpoint=info";

/// All logs go to stderr: stdout belongs to what a command answers.
fn init_log(format: args::LogFormat) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("MEETPOINT_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG));
    let colours = std::io::stderr().is_terminal();
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    match format {
        args::LogFormat::Text => builder.init(),
        args::LogFormat::Json => builder.json().init(),
    }
}
