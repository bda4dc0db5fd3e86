//! The `meetpoint` command: one binary for the server, a node, the demo and the operator.
//!
//! Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 3 rejected by the cluster,
//! 4 no server answered.

mod args;
mod config;
mod demo;
#[cfg(test)]
mod documents;
mod duration;
mod exit;
mod log;
mod netcheck;
mod node;
mod operator;
mod part;
mod ping;
mod progress;
mod serve;
mod signals;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use meetpoint_server::{ConfigSource, Fresh, Invocation, LayerError, Layered, Setting};

use args::{Cli, Command};
use exit::Failure;

/// The system's allocator keeps what a thread has freed. This one gives it back some seconds later, so
/// that a server is as small after a rush of allocations as it was before.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let invocation = Invocation::new(Cli::command(), Some("serve"), std::env::args_os());
    let (cli, layered) = match parse(&invocation) {
        Ok(parsed) => parsed,
        Err(error) => return config::complain(error),
    };
    let set_log_level = log::init(cli.log_format, &cli.log_level);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::failed(format!("no async runtime: {error}")).report(),
    };
    let outcome = runtime.block_on(async {
        match cli.command {
            Command::Serve(args) => {
                serve::run(*args, source(invocation, layered.settings, set_log_level)).await
            }
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
            Command::Config(args) => config::config(args, &layered),
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

/// Flags, environment and, for `serve`, the configuration file.
fn parse(invocation: &Invocation) -> Result<(Cli, Layered), LayerError> {
    let layered = invocation.read()?;
    Ok((Cli::from_arg_matches(&layered.matches)?, layered))
}

/// From where a running server has its configuration, and what it was at first.
fn source(invocation: Invocation, first: Vec<Setting>, set_log_level: log::Change) -> ConfigSource {
    let read = move || {
        let (cli, layered) = parse(&invocation).map_err(|error| config::in_one_line(&error))?;
        let Command::Serve(args) = cli.command else { return Err("this is no server".to_owned()) };
        let config = args.serve.validate().map_err(|error| error.to_string())?;
        Ok(Fresh { config, settings: layered.settings })
    };
    ConfigSource { first, read: Box::new(read), set_log_level }
}
