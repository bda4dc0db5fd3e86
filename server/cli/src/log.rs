//! What is logged, and how. All logs go to stderr: stdout belongs to what a command answers.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::reload::Handle;

use crate::args::LogFormat;

/// Checks a level, or directives.
pub(crate) fn level(text: &str) -> Result<String, String> {
    // A word that is no level would be taken for the name of a module.
    let is_level = |part: &str| !part.is_empty() && part.parse::<LevelFilter>().is_ok();
    let is_sound = |part: &str| part.contains('=') || is_level(part);
    match EnvFilter::builder().parse(directives(text)) {
        Ok(_) if text.split(',').all(is_sound) => Ok(text.to_owned()),
        _ => Err("expected off, error, warn, info, debug or trace, or directives such as \
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

/// Changes how much is logged.
pub(crate) type Change = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// Begins to log. What is given changes how much.
pub(crate) fn init(format: LogFormat, level: &str) -> Change {
    let colours = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_ansi(colours).with_writer(std::io::stderr);
    let filter = EnvFilter::new(directives(level));
    match format {
        LogFormat::Text => {
            let builder = builder.with_env_filter(filter).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            change(handle)
        }
        LogFormat::Json => {
            let builder = builder.json().with_env_filter(filter).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            change(handle)
        }
    }
}

/// By the handle of whatever logs.
fn change<S: 'static>(handle: Handle<EnvFilter, S>) -> Change {
    Box::new(move |level| {
        let filter = EnvFilter::new(directives(level));
        handle.reload(filter).map_err(|error| format!("--log-level {level}: {error}"))
    })
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
