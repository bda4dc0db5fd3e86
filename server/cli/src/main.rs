//! The `meetpoint` command: one binary for the server, a node, the demo and the operator.
//!
//! Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 3 rejected by the cluster,
//! 4 no server answered.

mod args;
mod demo;
mod duration;
mod exit;
mod log;
mod netcheck;
mod node;
mod operator;
mod serve;
mod signals;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use meetpoint_server::{ConfigSource, Fresh, Invocation, LayerError};

use args::{Cli, Command};
use exit::Failure;

/// The system's allocator keeps what a thread has freed. This one gives it back some seconds later, so
/// that a server is as small after a rush of allocations as it was before.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let invocation = Invocation::new(Cli::command(), Some("serve"), std::env::args_os());
    let cli = match parse(&invocation) {
        Ok(cli) => cli,
        Err(LayerError::Usage(error)) => error.exit(),
        Err(error) => return Failure::usage(error).report(),
    };
    let set_log_level = log::init(cli.log_format, &cli.log_level);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::failed(format!("no async runtime: {error}")).report(),
    };
    let outcome = runtime.block_on(async {
        match cli.command {
            Command::Serve(args) => serve::run(*args, source(invocation, set_log_level)).await,
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
        }
    });
    // Tasks that outlive their purpose (a name lookup in a blocking thread) must not hold up the exit.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Flags, environment and, for `serve`, the configuration file.
fn parse(invocation: &Invocation) -> Result<Cli, LayerError> {
    Ok(Cli::from_arg_matches(&invocation.read()?.matches)?)
}

/// From where a running server has its configuration.
fn source(invocation: Invocation, set_log_level: log::Change) -> ConfigSource {
    let first = invocation.read().map(|layered| layered.settings).unwrap_or_default();
    let read = move || {
        let layered = invocation.read().map_err(one_line)?;
        let cli = Cli::from_arg_matches(&layered.matches).map_err(one_line)?;
        let Command::Serve(args) = cli.command else { return Err("this is no server".to_owned()) };
        let config = args.serve.validate().map_err(one_line)?;
        Ok(Fresh { config, settings: layered.settings })
    };
    ConfigSource { first, read: Box::new(read), set_log_level }
}

/// The first line of a message says what is wrong; the others are the help.
fn one_line(error: impl std::fmt::Display) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
}
