//! Several servers, in turn, round by round, so that whatever changes on the machine changes for all of them.

use std::path::{Path, PathBuf};

use super::BenchError;
use super::arena::{Arena, Contestant};
use super::workload::{Figure, Settings, Workload, measure};

/// What one server showed in all rounds of one workload.
#[derive(Debug, Clone)]
pub struct Series {
    /// The server.
    pub name: String,
    /// The figures of each round, in the order of the rounds.
    pub rounds: Vec<Vec<Figure>>,
}

/// Measures one workload. The first server sets the rate of [`Workload::Latency`] for all in each round.
/// `scratch` is a directory for the servers' data; `say` is told of each measurement.
///
/// # Errors
/// If a server does not start or cannot be measured. All that was started has been ended.
pub fn compare(
    workload: Workload,
    contestants: &[Contestant],
    rounds: usize,
    settings: &Settings,
    scratch: &Path,
    say: &mut dyn FnMut(usize, &str, &[Figure]),
) -> Result<Vec<Series>, BenchError> {
    let suited = contestants.iter().filter(|contestant| contestant.relays() || workload.suits_an_echo());
    let mut series: Vec<_> = suited
        .map(|contestant| (contestant, Series { name: contestant.name.clone(), rounds: vec![] }))
        .collect();
    for round in 0..rounds {
        let mut settings = *settings;
        for (contestant, series) in &mut series {
            let data = Scratch::new(scratch, round)?;
            let arena = Arena::new(contestant, workload, &data.0)?;
            if workload == Workload::Latency && settings.per_s.is_none() {
                let closed = arena.run(|target| measure(Workload::Channel, target, &settings))?;
                settings.per_s = closed.first().map(|trips| trips.value / 2.0);
            }
            let figures = arena.run(|target| measure(workload, target, &settings))?;
            say(round, &series.name, &figures);
            series.rounds.push(figures);
        }
    }
    Ok(series.into_iter().map(|(_, series)| series).collect())
}

/// A directory that goes with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn new(parent: &Path, round: usize) -> Result<Self, BenchError> {
        let path = parent.join(format!("meetpoint-bench-{}-{round}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).map_err(BenchError::io(path.display().to_string()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
