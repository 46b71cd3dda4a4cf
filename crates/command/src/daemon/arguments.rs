//! The command line: the options of the daemon, and the line with which helpers start `java`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use multilang::java_arguments::{DaemonArguments, is_java_form};

/// The arguments of `kinesis-streaming daemon`.
#[derive(Debug, Args)]
pub(crate) struct DaemonCommand {
    /// The properties file of the MultiLangDaemon.
    #[arg(long, short)]
    properties_file: Option<PathBuf>,
    /// The properties file, as the last argument.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The logback file of the MultiLangDaemon; only the level of its root logger is used.
    #[arg(long, short)]
    log_configuration: Option<PathBuf>,
    /// Print the effective configuration with the origin of each value, and exit with 0 if it can be used, otherwise with 1.
    #[arg(long)]
    check: bool,
    /// Refuse unknown keys and values that cannot be read, and apply an explicit `false` or 0 that Java ignores.
    #[arg(long)]
    strict_properties: bool,
}

impl DaemonCommand {
    /// The same, as arguments of the daemon.
    pub(super) fn daemon_arguments(self) -> Result<DaemonArguments, String> {
        let mut arguments = DaemonArguments::default();
        arguments.properties_file = match (self.properties_file, self.file) {
            (Some(named), Some(other)) => {
                arguments.notes.push(format!(
                    "{} is ignored, because {} is named by an option",
                    other.display(),
                    named.display()
                ));
                named
            }
            (Some(file), None) | (None, Some(file)) => file,
            (None, None) => {
                return Err("no properties file is named; name it with --properties-file FILE".to_owned());
            }
        };
        arguments.log_configuration = self.log_configuration;
        arguments.is_check = self.check;
        arguments.is_strict = self.strict_properties;
        Ok(arguments)
    }
}

/// The arguments after the program, if the line is one for `java`.
pub(crate) fn java_line(arguments: &[OsString]) -> Option<Vec<String>> {
    let mut texts = arguments.iter().map(|argument| argument.to_string_lossy().into_owned());
    let program = texts.next()?;
    let rest: Vec<String> = texts.collect();
    // The name of a subcommand is no argument of `java`.
    let is_own = rest.first().is_some_and(|first| first == "daemon");
    (!is_own && is_java_form(&program, &rest)).then_some(rest)
}

#[cfg(test)]
mod tests {
    use multilang::java_arguments::MAIN_CLASSES;

    use super::*;

    fn line(words: &str) -> Option<Vec<String>> {
        let words: Vec<OsString> = words.split(' ').map(OsString::from).collect();
        java_line(&words)
    }

    #[test]
    fn lines_for_java_are_distinguished_from_own_ones() {
        let class = MAIN_CLASSES[0];
        assert!(line(&format!("/opt/kinesis-streaming -cp x {class} p.properties")).is_some());
        assert_eq!(line("/fake/bin/java -version").unwrap(), ["-version"]);
        assert_eq!(line("/opt/kinesis-streaming daemon -p p.properties"), None);
        assert_eq!(line("/opt/java daemon -p p.properties"), None);
        assert_eq!(line("/opt/kinesis-streaming --help"), None);
    }
}
