//! Where log lines go: stderr, as text or as JSON.

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, LogSection};

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A level that is none.
    #[error(
        "log.level: {level:?} is no level: {reason}; write info, debug, or directives as in info,meridian_mirror=debug"
    )]
    Level {
        /// As configured.
        level: String,
        /// What is wrong.
        reason: String,
    },
    /// A second start in one process.
    #[error("logging was started already: {0}")]
    Twice(String),
}

/// Starts logging, once a process.
///
/// # Errors
/// The level is none, or logging was started already.
pub fn init(log: &LogSection) -> Result<(), LogError> {
    // A plain level is ours; openraft repeats each failed heartbeat twice a second, and our own lines say that a region
    // is gone. Whoever names it in `log.level` gets it.
    let directives = if log.level.contains("openraft") {
        log.level.clone()
    } else {
        format!("{},openraft=error", log.level)
    };
    let filter = EnvFilter::try_new(&directives)
        .map_err(|error| LogError::Level { level: log.level.clone(), reason: error.to_string() })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let begun = match log.format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    begun.map_err(|error| LogError::Twice(error.to_string()))
}
