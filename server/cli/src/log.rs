//! What is logged, and how. All logs go to stderr: stdout belongs to what a command answers.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::args::LogFormat;

/// Checks a level, or directives.
pub(crate) fn level(text: &str) -> Result<String, String> {
    match EnvFilter::builder().parse(directives(text)) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("expected off, error, warn, info, debug or trace, or directives such as \
                       warn,meetpoint_server::http=debug"
            .to_owned()),
    }
}

/// A level alone is Meetpoint's own: what libraries tell below a warning is seldom of use.
fn directives(text: &str) -> String {
    match text.parse::<LevelFilter>() {
        Ok(level) if level > LevelFilter::WARN => format!("warn,meetpoint={text}"),
        _ => text.to_owned(),
    }
}

/// Begins to log.
pub(crate) fn init(format: LogFormat, level: &str) {
    let colours = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(directives(level)))
        .with_ansi(colours)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_alone_is_our_own() {
        let check = |text: &str, expect: Option<&str>| {
            let got = level(text).map(|text| directives(&text)).ok();
            assert_eq!(got.as_deref(), expect, "{text:?}");
        };
        check("info", Some("warn,meetpoint=info"));
        check("TRACE", Some("warn,meetpoint=TRACE"));
        check("error", Some("error"));
        check("off", Some("off"));
        check("warn,meetpoint_server=debug", Some("warn,meetpoint_server=debug"));
        for bad in ["loud", "", "a=b=c", "info,,=x"] {
            check(bad, None);
        }
    }
}
