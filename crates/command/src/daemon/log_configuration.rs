//! The level in a logback file, the only part of it that has a meaning here.

use tracing_subscriber::filter::LevelFilter;

/// The level of the root logger: `<root level="INFO">`.
pub(super) fn root_level(text: &str) -> Option<LevelFilter> {
    let (_, root) = text.split_once("<root")?;
    let tag = root.split('>').next()?;
    let (_, value) = tag.split_once("level")?;
    let value = value.trim_start().strip_prefix('=')?.trim_start();
    let quote = value.chars().next().filter(|quote| ['"', '\''].contains(quote))?;
    let level = value[1..].split(quote).next()?;
    Some(match level.trim().to_ascii_uppercase().as_str() {
        "OFF" => LevelFilter::OFF,
        "ERROR" => LevelFilter::ERROR,
        "WARN" => LevelFilter::WARN,
        "INFO" => LevelFilter::INFO,
        "DEBUG" => LevelFilter::DEBUG,
        "TRACE" | "ALL" => LevelFilter::TRACE,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_of_the_root_logger_is_found() {
        for (text, level) in [
            ("<configuration><root level=\"INFO\">", Some(LevelFilter::INFO)),
            ("<root\n  level = 'debug' />", Some(LevelFilter::DEBUG)),
            ("<root additivity=\"x\" level=\"WARN\">", Some(LevelFilter::WARN)),
            ("<root level=\"${LEVEL}\">", None),
            ("<logger name=\"x\" level=\"ERROR\"/>", None),
            ("<root>", None),
            ("<root level=", None),
        ] {
            assert_eq!(root_level(text), level, "{text}");
        }
    }
}
