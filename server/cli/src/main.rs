//! The `meetpoint` command: one binary for the server, a node, the demo and the operator.
//!
//! Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 3 rejected by the cluster,
//! 4 no server answered.

mod args;
mod demo;
#[cfg(test)]
mod documents;
mod duration;
mod exit;
mod netcheck;
mod node;
mod operator;
mod serve;
mod signals;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use exit::Failure;

/// The system's allocator keeps what a thread has freed. This one gives it back some seconds later, so
/// that a server is as small after a rush of allocations as it was before.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
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
        }
    });
    // Tasks that outlive their purpose (a name lookup in a blocking thread) must not hold up the exit.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
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
