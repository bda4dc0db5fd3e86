//! Results as Markdown.

use std::fmt::Write as _;

use super::compare::Series;
use super::workload::{Figure, Workload, key_figure};

/// One workload: a row a server, medians over the rounds; the figure that counts also with its least and greatest, and
/// by the first server's of the same round.
#[must_use]
pub fn table(workload: Workload, series: &[Series]) -> String {
    let key = key_figure(workload);
    let names: Vec<_> = columns(series);
    let mut text = format!("### {}\n\n| server |", workload.title());
    for name in &names {
        let _ = write!(text, " {name} |");
    }
    let _ = write!(text, " {key}, by the first |\n|---|{}---|\n", "---|".repeat(names.len()));
    for one in series {
        let _ = write!(text, "| {} |", one.name);
        for name in &names {
            let _ = write!(text, " {} |", cell(one, name, *name == key));
        }
        let ratios = series.first().map_or(vec![], |first| ratios(one, first, key));
        let _ = writeln!(text, " {} |", spread(&ratios, 2, true));
    }
    text
}

/// One measurement, a line a figure.
#[must_use]
pub fn list(figures: &[Figure]) -> String {
    figures.iter().fold(String::new(), |mut text, figure| {
        let _ = writeln!(text, "{:>36}  {:.*}", figure.name, figure.decimals, figure.value);
        text
    })
}

/// One measurement in one line.
#[must_use]
pub fn line(figures: &[Figure]) -> String {
    let parts: Vec<_> = figures
        .iter()
        .map(|figure| format!("{} {:.*}", figure.name, figure.decimals, figure.value))
        .collect();
    parts.join(", ")
}

/// The names of all figures, in the order of the fullest measurement.
fn columns(series: &[Series]) -> Vec<&'static str> {
    let fullest = series.iter().flat_map(|one| &one.rounds).max_by_key(|figures| figures.len());
    fullest.map_or(vec![], |figures| figures.iter().map(|figure| figure.name).collect())
}

fn cell(series: &Series, name: &str, with_spread: bool) -> String {
    let (values, decimals) = values(series, name);
    spread(&values, decimals, with_spread)
}

fn values(series: &Series, name: &str) -> (Vec<f64>, usize) {
    let found = series.rounds.iter().filter_map(|figures| figures.iter().find(|figure| figure.name == name));
    let decimals = found.clone().map(|figure| figure.decimals).max().unwrap_or(0);
    (found.map(|figure| figure.value).collect(), decimals)
}

/// Round by round, so that both are of the same minute.
fn ratios(series: &Series, first: &Series, key: &str) -> Vec<f64> {
    let (mine, theirs) = (values(series, key).0, values(first, key).0);
    mine.iter().zip(&theirs).map(|(mine, theirs)| mine / theirs).collect()
}

/// The median, and the ends if they are asked for.
fn spread(values: &[f64], decimals: usize, with_ends: bool) -> String {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (Some(least), Some(greatest)) = (sorted.first(), sorted.last()) else { return "-".to_owned() };
    let middle = median(&sorted);
    if with_ends && sorted.len() > 1 {
        format!("{middle:.decimals$} ({least:.decimals$} to {greatest:.decimals$})")
    } else {
        format!("{middle:.decimals$}")
    }
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    } else {
        sorted[middle]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, cpu: &[f64]) -> Series {
        let figures = |value: &f64| {
            let lost = Figure { name: "lost", value: 0.0, decimals: 0 };
            vec![Figure { name: key_figure(Workload::Binding), value: *value, decimals: 2 }, lost]
        };
        Series { name: name.to_owned(), rounds: cpu.iter().map(figures).collect() }
    }

    #[test]
    fn a_row_has_medians_and_the_ratio_of_each_round() {
        let all = [series("one", &[8.0, 10.0, 9.0]), series("two", &[4.0, 2.0, 3.0])];
        let text = table(Workload::Binding, &all);
        let rows: Vec<_> = text.lines().skip(4).collect();
        assert_eq!(
            rows,
            [
                "| one | 9.00 (8.00 to 10.00) | 0 | 1.00 (1.00 to 1.00) |",
                "| two | 3.00 (2.00 to 4.00) | 0 | 0.33 (0.20 to 0.50) |",
            ]
        );
    }
}
