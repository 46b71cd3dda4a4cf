//! Where a reset is to begin, as the command line says it.

use std::collections::BTreeMap;
use std::path::Path;

use fleet_view::plan::ResetTo;
use fleet_view::{MAX_FILE_BYTES, PositionsFile};

use crate::exit_code::{CommandError, CommandErrorKind, usage};
use crate::time_argument::{parse_duration, parse_instant};

/// Reads `trim-horizon`, `latest`, a duration or a time. `None`: it is none of them.
pub(crate) fn reset_point(text: &str, now_millis: u64) -> Option<ResetTo> {
    match text.to_ascii_lowercase().replace('_', "-").as_str() {
        "trim-horizon" => return Some(ResetTo::TrimHorizon),
        "latest" => return Some(ResetTo::Latest),
        _ => {}
    }
    if let Ok(ago) = parse_duration(text) {
        return Some(ResetTo::Ago { millis: u64::try_from(ago.as_millis()).unwrap_or(u64::MAX) });
    }
    let at_millis = parse_instant(text, now_millis).ok()?;
    Some(ResetTo::Time { at_millis, resolved: BTreeMap::new() })
}

/// Reads `trim-horizon`, `latest`, a duration, a time, or the name of a file of positions.
pub(crate) fn reset_target(text: &str, now_millis: u64) -> Result<ResetTo, CommandError> {
    if let Some(point) = reset_point(text, now_millis) {
        return Ok(point);
    }
    if !Path::new(text).exists() {
        return Err(usage(format!(
            "--to {text:?} is no trim-horizon, latest, time, duration or file; write 2h for the newest two hours, or \
             2026-11-30T07:30:00Z for a time"
        )));
    }
    read_positions(Path::new(text)).map(ResetTo::Positions)
}

/// Reads a file of positions.
pub(crate) fn read_positions(path: &Path) -> Result<PositionsFile, CommandError> {
    let invalid = |message: String| CommandError::new(CommandErrorKind::Invalid, message);
    let shown = path.display();
    let size = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    if size > MAX_FILE_BYTES as u64 {
        return Err(invalid(format!(
            "{shown} has {size} bytes, more than {MAX_FILE_BYTES}; export it again"
        )));
    }
    let text = std::fs::read_to_string(path).map_err(|error| {
        invalid(format!("{shown} cannot be read: {error}; check its name")).with_source(error)
    })?;
    PositionsFile::from_json(&text).map_err(|error| invalid(format!("{shown}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    #[test]
    fn targets_have_several_forms() {
        for (text, expected) in [
            ("trim-horizon", ResetTo::TrimHorizon),
            ("TRIM_HORIZON", ResetTo::TrimHorizon),
            ("latest", ResetTo::Latest),
            ("2h", ResetTo::Ago { millis: 7_200_000 }),
            ("1700000000", ResetTo::Time { at_millis: NOW, resolved: BTreeMap::new() }),
            ("2023-11-14T22:13:20Z", ResetTo::Time { at_millis: NOW, resolved: BTreeMap::new() }),
        ] {
            assert_eq!(reset_target(text, NOW).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn unknown_target_names_the_forms() {
        let error = reset_target("yesterday", NOW).unwrap_err();
        assert_eq!(error.kind(), CommandErrorKind::Usage);
        assert!(error.to_string().contains("2h"), "{error}");
        let error = reset_target("Cargo.toml", NOW).unwrap_err();
        assert_eq!(error.kind(), CommandErrorKind::Invalid, "{error}");
    }
}
