//! What the command line does.

use nix::sys::prctl::set_timerslack;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::BenchError;
use super::arena::{COTURN_FLAGS, UNBOUNDED_FLAGS};
use super::args::{CompareArgs, RunArgs};
use super::compare;
use super::meter::machine;
use super::table::{line, list, table};
use super::workload::measure;

/// Measures one server and prints what was found.
///
/// # Errors
/// [`BenchError`]; what was measured before has been printed.
pub fn run(args: &RunArgs) -> Result<(), BenchError> {
    prepare()?;
    let target = args.target()?;
    let settings = args.measure.settings()?;
    println!("{}", machine());
    for workload in args.measure.workloads() {
        let figures = measure(*workload, &target, &settings)?;
        println!("\n{}\n{}", workload.title(), list(&figures));
    }
    Ok(())
}

/// Compares servers and prints tables; tells on standard error how it goes.
///
/// # Errors
/// [`BenchError`]; what was measured before has been printed.
pub fn compare(args: &CompareArgs) -> Result<(), BenchError> {
    prepare()?;
    let contestants = args.contestants()?;
    let settings = args.measure.settings()?;
    let scratch = std::env::temp_dir();
    println!("{}; medians of {} rounds of {} s\n", machine(), args.rounds, args.measure.seconds);
    println!("coturn with {}", COTURN_FLAGS.join(" "));
    println!("Meetpoint, but for the flood, with {}\n", UNBOUNDED_FLAGS.join(" "));
    for workload in args.measure.workloads() {
        let mut say = |round: usize, name: &str, figures: &[_]| {
            eprintln!("{workload:?} {}/{} {name}: {}", round + 1, args.rounds, line(figures));
        };
        let series = compare::compare(*workload, &contestants, args.rounds, &settings, &scratch, &mut say)?;
        println!("{}", table(*workload, &series));
    }
    Ok(())
}

/// Each idle client holds a descriptor, and a schedule must not be rounded to 50 microseconds; both are inherited by
/// the threads and servers that are started from here.
pub(super) fn prepare() -> Result<(), BenchError> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(BenchError::os("the limit of open files"))?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(BenchError::os("the limit of open files"))?;
    set_timerslack(1).map_err(BenchError::os("the timer slack"))
}
