//! The command line: that of the MultiLangDaemon, and the form in which helpers start `java` with it.
//!
//! The bindings build `java -cp PATH software.amazon.kinesis.multilang.MultiLangDaemon --properties-file FILE`. A program
//! that accepts this line can be named as the Java executable. Parsing is pure: files are named here, not opened.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{MultilangError, MultilangErrorKind};

/// The main classes for which this daemon stands in.
pub const MAIN_CLASSES: [&str; 2] = [
    "software.amazon.kinesis.multilang.MultiLangDaemon",
    "com.amazonaws.services.kinesis.multilang.MultiLangDaemon",
];

/// The usage of the daemon.
pub const USAGE: &str = "usage: [-p | --properties-file] FILE [-l | --log-configuration FILE] [--check] \
                         [--strict-properties] [--help] [--version]";

/// What a command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Invocation {
    /// Run the daemon, or check its configuration.
    Run(DaemonArguments),
    /// Print the version and exit with 0.
    Version,
    /// Print the usage and exit with 0.
    Help,
}

/// The arguments of the daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DaemonArguments {
    /// The properties file, as it was named; see [`candidates`](Self::candidates).
    pub properties_file: PathBuf,
    /// The configuration of Java's log.
    pub log_configuration: Option<PathBuf>,
    /// Only print the effective configuration.
    pub is_check: bool,
    /// Unparsable values and unknown keys are errors.
    pub is_strict: bool,
    /// The directories of the class path, in which Java searches the properties file first.
    pub class_path: Vec<PathBuf>,
    /// The properties set with `-D` that have a meaning here.
    pub system_properties: BTreeMap<String, String>,
    /// Arguments without an effect, each with a reason.
    pub notes: Vec<String>,
}

impl DaemonArguments {
    /// The files to try for the properties, in Java's order: in the directories of the class path, then as it was named.
    pub fn candidates(&self) -> Vec<PathBuf> {
        let in_class_path = self.class_path.iter().filter(|_| !self.properties_file.is_absolute());
        in_class_path
            .map(|directory| directory.join(&self.properties_file))
            .chain([self.properties_file.clone()])
            .collect()
    }
}

/// Whether a command line is one for `java`: the program has that name, or a main class is among the arguments.
pub fn is_java_form(program: &str, arguments: &[String]) -> bool {
    let is_java = Path::new(program).file_stem().is_some_and(|name| name.eq_ignore_ascii_case("java"));
    is_java || arguments.iter().any(|argument| MAIN_CLASSES.contains(&argument.as_str()))
}

/// Options of `java` that are followed by a value.
const JAVA_OPTIONS_WITH_VALUE: [&str; 9] = [
    "--add-exports",
    "--add-modules",
    "--add-opens",
    "--add-reads",
    "--limit-modules",
    "--module-path",
    "-p",
    "--patch-module",
    "--upgrade-module-path",
];

/// The properties of `java` that have a meaning here.
const SYSTEM_PROPERTIES: [&str; 8] = [
    "aws.accessKeyId",
    "aws.secretAccessKey",
    "aws.sessionToken",
    "aws.region",
    "http.proxyHost",
    "http.proxyPort",
    "https.proxyHost",
    "https.proxyPort",
];

/// Parses the arguments that a helper passes to `java`.
///
/// # Errors
/// `InvalidArguments` for another main class or a jar, and for what [`parse_daemon`] refuses.
pub fn parse_java(arguments: &[String]) -> Result<Invocation, MultilangError> {
    let mut base = DaemonArguments::default();
    let mut rest = arguments.iter().map(String::as_str);
    while let Some(argument) = rest.next() {
        let (option, value) =
            argument.split_once('=').map_or((argument, None), |(option, value)| (option, Some(value)));
        match option {
            "-version" | "--version" | "-fullversion" | "-showversion" => return Ok(Invocation::Version),
            "-help" | "--help" | "-h" | "-?" => return Ok(Invocation::Help),
            "-cp" | "-classpath" | "--class-path" => {
                let Some(path) = value.or_else(|| rest.next()) else {
                    return Err(invalid(format!("{option} has no value; name the class path after it")));
                };
                base.class_path = directories(path);
            }
            "-jar" | "-m" | "--module" => {
                let message = format!("{option} cannot be run without Java; start {}", MAIN_CLASSES[0]);
                return Err(invalid(message));
            }
            _ if JAVA_OPTIONS_WITH_VALUE.contains(&option) => {
                if value.is_none() {
                    rest.next();
                }
            }
            _ if argument.starts_with("-D") => system_property(&mut base, &argument[2..]),
            _ if argument.starts_with('@') => {
                return Err(invalid(format!(
                    "{argument}: argument files are not supported; write the arguments out"
                )));
            }
            // All other options set up the virtual machine.
            _ if argument.starts_with('-') => {
                if argument.starts_with("-javaagent") || argument.starts_with("-agent") {
                    base.notes.push(format!("{argument} has no effect: there is no virtual machine"));
                }
            }
            main_class if MAIN_CLASSES.contains(&main_class) => {
                let daemon: Vec<String> = rest.map(str::to_owned).collect();
                return parse_into(base, &daemon);
            }
            other => {
                let message =
                    format!("main class {other} cannot be run without Java; only {} can", MAIN_CLASSES[0]);
                return Err(invalid(message));
            }
        }
    }
    Err(invalid(format!("no main class is named; {USAGE}")))
}

/// Parses the arguments of the daemon.
///
/// # Errors
/// `InvalidArguments` without a properties file or with two of them, and for an unknown option.
pub fn parse_daemon(arguments: &[String]) -> Result<Invocation, MultilangError> {
    parse_into(DaemonArguments::default(), arguments)
}

fn parse_into(base: DaemonArguments, arguments: &[String]) -> Result<Invocation, MultilangError> {
    let mut parsed = base;
    let (mut named, mut positional): (Option<&str>, Option<&str>) = (None, None);
    let mut rest = arguments.iter().map(String::as_str);
    while let Some(argument) = rest.next() {
        let (option, value) =
            argument.split_once('=').map_or((argument, None), |(option, value)| (option, Some(value)));
        match option {
            "-p" | "--properties-file" | "-l" | "--log-configuration" => {
                let Some(file) = value.or_else(|| rest.next()).filter(|file| !file.is_empty()) else {
                    return Err(invalid(format!("{option} has no value; name a file after it")));
                };
                if option.starts_with("-l") || option.starts_with("--l") {
                    parsed.log_configuration = Some(file.into());
                } else {
                    named = Some(file);
                }
            }
            "--check" => parsed.is_check = true,
            "--strict-properties" => parsed.is_strict = true,
            "-h" | "--help" => return Ok(Invocation::Help),
            "--version" => return Ok(Invocation::Version),
            _ if argument.starts_with('@') => {
                return Err(invalid(format!(
                    "{argument}: argument files are not supported; write the arguments out"
                )));
            }
            _ if argument.starts_with('-') => {
                return Err(invalid(format!("unknown option {argument}; {USAGE}")));
            }
            file => {
                if let Some(first) = positional.replace(file) {
                    return Err(invalid(format!("two properties files, {first} and {file}; name one")));
                }
            }
        }
    }
    if let (Some(named), Some(positional)) = (named, positional) {
        parsed.notes.push(format!("{positional} is ignored, because {named} is named by an option"));
    }
    let Some(file) = named.or(positional) else {
        return Err(invalid(format!("no properties file is named; {USAGE}")));
    };
    parsed.properties_file = file.into();
    Ok(Invocation::Run(parsed))
}

fn invalid(message: String) -> MultilangError {
    MultilangError::new(MultilangErrorKind::InvalidArguments, message)
}

/// The directories of a class path; jars and wildcards cannot hold a properties file.
fn directories(class_path: &str) -> Vec<PathBuf> {
    let is_archive = |path: &Path| {
        path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("jar")) || path.ends_with("*")
    };
    std::env::split_paths(class_path)
        .filter(|path| !path.as_os_str().is_empty() && !is_archive(path))
        .collect()
}

fn system_property(parsed: &mut DaemonArguments, definition: &str) {
    let (name, value) = definition.split_once('=').unwrap_or((definition, ""));
    if SYSTEM_PROPERTIES.contains(&name) {
        parsed.system_properties.insert(name.to_owned(), value.to_owned());
    } else {
        parsed.notes.push(format!("-D{name} has no effect: no part of this daemon reads it"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }

    fn run(parsed: Result<Invocation, MultilangError>) -> DaemonArguments {
        match parsed {
            Ok(Invocation::Run(arguments)) => arguments,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lines_of_the_helpers_are_accepted() {
        let class = MAIN_CLASSES[0];
        for line in [
            format!("-cp a.jar:lib/*:run {class} --properties-file p.properties --log-configuration l.xml"),
            format!("-classpath a.jar:run {class} -p p.properties -l l.xml"),
            format!(
                "-Xmx1g -XX:+UseG1GC -server --add-opens x=y --class-path run {class} p.properties -l l.xml"
            ),
            format!("--class-path=run -Dfoo=bar {} -l l.xml p.properties", MAIN_CLASSES[1]),
        ] {
            let parsed = run(parse_java(&words(&line)));
            assert_eq!(parsed.class_path, [PathBuf::from("run")], "{line}");
            assert_eq!(
                parsed.candidates(),
                [PathBuf::from("run/p.properties"), "p.properties".into()],
                "{line}"
            );
            assert_eq!(parsed.log_configuration, Some("l.xml".into()), "{line}");
        }
    }

    #[test]
    fn java_form_is_recognised_by_program_or_class() {
        assert!(is_java_form("/usr/lib/jvm/bin/java", &[]));
        assert!(is_java_form("C:/jdk/JAVA.EXE", &[]));
        assert!(is_java_form("/opt/ourd", &words(&format!("-cp x {} -p f", MAIN_CLASSES[0]))));
        assert!(!is_java_form("/opt/ourd", &words("--properties-file f")));
    }

    #[test]
    fn version_and_credentials_are_read() {
        assert_eq!(parse_java(&words("-version")).unwrap(), Invocation::Version);
        let line = format!("-Daws.accessKeyId=a -Daws.secretAccessKey=b=c {} -p /f", MAIN_CLASSES[0]);
        let parsed = run(parse_java(&words(&line)));
        assert_eq!(parsed.system_properties["aws.secretAccessKey"], "b=c");
        assert_eq!(parsed.candidates(), [PathBuf::from("/f")]);
    }

    #[test]
    fn lines_that_need_java_are_refused() {
        for line in ["-jar app.jar", "com.example.Main", "-cp x", "", "@args", "-cp"] {
            let error = parse_java(&words(line)).unwrap_err();
            assert_eq!(error.kind(), MultilangErrorKind::InvalidArguments, "{line}");
        }
    }

    #[test]
    fn daemon_options_have_java_and_common_forms() {
        for line in ["-p f", "--properties-file f", "--properties-file=f", "-p=f", "f"] {
            assert_eq!(run(parse_daemon(&words(line))).properties_file, PathBuf::from("f"), "{line}");
        }
        let both = run(parse_daemon(&words("old -p f --check --strict-properties")));
        assert_eq!((both.properties_file, both.notes.len()), (PathBuf::from("f"), 1));
        assert!(both.is_check && both.is_strict);
        assert_eq!(parse_daemon(&words("--help")).unwrap(), Invocation::Help);
        for line in ["", "f g", "-p", "--propertiesfile f", "@f"] {
            assert_eq!(
                parse_daemon(&words(line)).unwrap_err().kind(),
                MultilangErrorKind::InvalidArguments,
                "{line}"
            );
        }
    }
}
