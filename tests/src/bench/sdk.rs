//! What a program takes on that embeds the SDK: crates, the time of a clean build, bytes.
//!
//! The program is the smallest that is of use: it joins, connects and says something. It is built for release in a
//! folder of its own with nothing built before, of the versions that this workspace locks, and stripped by the
//! compiler. The time of a build is that of the machine at that moment; the processors' time is told beside it, which
//! others disturb less.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use clap::Args;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

use super::BenchError;

/// The features that a program may want.
pub const FEATURES: [&str; 5] = ["dns", "mdns", "portmap", "rendezvous", "webrtc"];

/// Crates at most by default, which is meeting peers and no more; and with every feature.
pub const MOST_CRATES: [usize; 2] = [120, 190];

/// A node that says hello.
const PROGRAM: &str = r#"
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let [url, token, peer] = [(); 3].map(|()| args.next().unwrap_or_default());
    let node = meetpoint::Node::builder(&url).name("alice").join_token(token).start().await?;
    let connection = node.connect(&peer).await?;
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(b"hello").await?;
    send.finish()?;
    println!("{:?} by {}", recv.read_to_end(1024).await?, connection.path().borrow().remote);
    node.leave().await;
    Ok(())
}
"#;

/// What the SDK costs.
#[derive(Debug, Args)]
pub struct SdkArgs {
    /// The SDK's folder.
    #[arg(long, value_name = "DIR", default_value_os_t = source())]
    pub sdk: PathBuf,
    /// Build the program a second time, with all features.
    #[arg(long)]
    pub all: bool,
    /// Build nothing.
    #[arg(long, conflicts_with = "all")]
    pub no_build: bool,
}

/// The SDK that was here when this was built.
#[must_use]
pub fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../sdk")
}

/// A program that was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Built {
    /// By the clock on the wall.
    pub elapsed: Duration,
    /// By the processors'.
    pub processors: Duration,
    /// The stripped program's size, in bytes.
    pub size: u64,
}

/// Measures, and prints a table.
///
/// # Errors
/// [`BenchError`] if cargo is not there, or refuses.
pub fn run(args: &SdkArgs) -> Result<(), BenchError> {
    let all: Vec<&str> = FEATURES.to_vec();
    let counts = [crates(&args.sdk, &[])?.len(), crates(&args.sdk, &["--features", &all.join(",")])?.len()];
    println!("{}", said(Command::new("rustc").arg("--version"))?.trim());
    println!();
    println!("| | default | with {} |\n|---|---|---|", all.join(", "));
    println!("| crates | {} | {} |", counts[0], counts[1]);
    println!("| at most | {} | {} |", MOST_CRATES[0], MOST_CRATES[1]);
    if args.no_build {
        return Ok(());
    }
    let default = build(&args.sdk, &[])?;
    let full = args.all.then(|| build(&args.sdk, &all)).transpose()?;
    let cell = |text: fn(&Built) -> String| {
        let full = full.as_ref().map(text).unwrap_or_default();
        format!("{} | {full} |", text(&default))
    };
    println!("| clean build, s | {}", cell(|built| format!("{:.1}", built.elapsed.as_secs_f64())));
    println!("| processors, s | {}", cell(|built| format!("{:.1}", built.processors.as_secs_f64())));
    println!("| stripped program, KiB | {}", cell(|built| (built.size / 1024).to_string()));
    Ok(())
}

fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// What a command prints.
fn said(command: &mut Command) -> Result<String, BenchError> {
    let what = format!("{command:?}");
    let output = command.output().map_err(BenchError::io(what.clone()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(BenchError::Unexpected(format!("{what}: {said}")));
    }
    String::from_utf8(output.stdout).map_err(|error| BenchError::Unexpected(format!("{what}: {error}")))
}

/// The SDK in a folder and all that it is built of on this system with these arguments of cargo's, each version
/// counting once.
///
/// # Errors
/// [`BenchError`] if cargo is not there, or refuses.
pub fn crates(sdk: &Path, args: &[&str]) -> Result<BTreeSet<String>, BenchError> {
    let mut command = Command::new(cargo());
    command.args(["tree", "--locked", "--offline", "--package", "meetpoint", "--edges", "normal"]);
    let text = said(command.args(["--prefix", "none"]).args(args).current_dir(sdk))?;
    // A crate that was shown before is marked.
    Ok(text.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect())
}

/// Builds the program with these features.
///
/// # Errors
/// [`BenchError`] if there is no place for it, or cargo refuses.
pub fn build(sdk: &Path, features: &[&str]) -> Result<Built, BenchError> {
    let sdk = sdk.canonicalize().map_err(BenchError::io(sdk.display().to_string()))?;
    let folder = tempfile::tempdir().map_err(BenchError::io("a folder"))?;
    let put = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).map_err(BenchError::io(name.to_owned()))
    };
    let manifest = format!(
        "[package]\nname = \"hello\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n\
         [dependencies]\nmeetpoint = {{ path = {sdk:?}, features = {features:?} }}\n\
         tokio = {{ version = \"1\", features = [\"macros\", \"rt\"] }}\n[profile.release]\nstrip = true\n"
    );
    put("Cargo.toml", &manifest)?;
    let lock = sdk.join("../Cargo.lock");
    put("Cargo.lock", &fs::read_to_string(&lock).map_err(BenchError::io(lock.display().to_string()))?)?;
    fs::create_dir(folder.path().join("src")).map_err(BenchError::io("src"))?;
    put("src/main.rs", PROGRAM)?;
    let mut command = Command::new(cargo());
    command.args(["build", "--release", "--offline", "--quiet"]).current_dir(folder.path());
    command.env("CARGO_TARGET_DIR", folder.path().join("target")).env_remove("RUSTFLAGS");
    let (started, before) = (Instant::now(), children()?);
    said(&mut command)?;
    let (elapsed, processors) = (started.elapsed(), children()?.saturating_sub(before));
    let program = folder.path().join("target/release/hello");
    let size = fs::metadata(&program).map_err(BenchError::io("the program"))?.len();
    Ok(Built { elapsed, processors, size })
}

/// What children that have ended have used of the processors.
fn children() -> Result<Duration, BenchError> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).map_err(BenchError::os("the processors' clock"))?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(micros.unsigned_abs()))
}
