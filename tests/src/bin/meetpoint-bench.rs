//! `meetpoint-bench`: the benchmarks' command line.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    use clap::Parser as _;
    use meetpoint_tests::bench::args::{Cli, Command};
    use meetpoint_tests::bench::{fleet, forgetful, matrix, run, sdk, wire};

    let outcome = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Compare(args) => run::compare(&args),
        Command::Joins(args) => fleet::run(&args),
        Command::Matrix(args) => matrix::run(&args),
        Command::Sdk(args) => sdk::run(&args),
        Command::Forgetful(args) => forgetful::run(&args),
        Command::Echo { listen } => wire::serve_echo(listen),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("meetpoint-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!("meetpoint-bench: needs Linux");
    ExitCode::FAILURE
}
