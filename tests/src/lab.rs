//! How a test asks for a NAT lab.

use std::fs::OpenOptions;
use std::io::Write as _;

use meetpoint_cli::lab::Lab;
use meetpoint_cli::lab::probe::Dependence;

/// `required` turns a lab that this machine cannot run from a skipped test into a failed one; `off` skips all.
pub const LAB_SWITCH: &str = "MEETPOINT_LAB";

/// Names a file that collects what was skipped, one line each, since a runner hides what a passing test says.
pub const SKIPPED_FILE: &str = "MEETPOINT_SKIPPED";

/// A lab, or `None` if the test `name` must be skipped because this machine cannot run one, which is then said on
/// standard error.
///
/// # Panics
///
/// If the lab went wrong, or is required and cannot run.
#[must_use]
pub fn lab_or_skip(name: &str) -> Option<Lab> {
    let switch = std::env::var(LAB_SWITCH).unwrap_or_default();
    if switch == "off" {
        skip(name, "the NAT lab is switched off");
        return None;
    }
    match Lab::new() {
        Ok(lab) => Some(lab),
        Err(error) if error.is_unavailable() && switch != "required" => {
            skip(name, &error.to_string());
            None
        }
        Err(error) => panic!("{name}: {error}"),
    }
}

/// Says that a test was skipped. Written to the stream itself, because a test runner captures what goes through the
/// print macros of a test that passes.
pub fn skip(name: &str, reason: &str) {
    let line = format!("skipped: {name}: {reason}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(file) = std::env::var_os(SKIPPED_FILE) {
        let _ = OpenOptions::new()
            .create(true)
            .append(true)
            .open(file)
            .map(|mut file| file.write_all(line.as_bytes()));
    }
}

/// True if this program is in the search path.
#[must_use]
pub fn is_installed(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// How `turnutils_natdiscovery` says what a NAT's behaviour depends on.
#[must_use]
pub const fn in_coturns_words(dependence: Dependence) -> &'static str {
    match dependence {
        Dependence::Nothing => "Endpoint Independent",
        Dependence::Address => "Address Dependent",
        Dependence::AddressAndPort => "Address and Port Dependent",
    }
}
