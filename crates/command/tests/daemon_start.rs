//! The daemon before it reaches a server: the command line, properties files in each wrong form, and `--check`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)] // a test may

use std::path::PathBuf;
use std::process::{Command, Output};

const REQUIRED: &str = "executableName = sh\napplicationName = app\nstreamName = words\nregionName = eu-west-1\n\
                        AwsCredentialsProvider = DefaultCredentialsProvider\n";

fn daemon() -> Command {
    Command::new(env!("CARGO_BIN_EXE_kinesis-streaming"))
}

/// A file of this test.
fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The output of a daemon with this properties file, which must end by itself.
fn with(name: &str, bytes: &[u8], options: &[&str]) -> Output {
    daemon().arg("daemon").arg("--properties-file").arg(file(name, bytes)).args(options).output().unwrap()
}

#[test]
fn check_prints_each_value_with_its_origin() {
    let lines = format!("{REQUIRED}retrievalMode = polling\nfaioverTimeMillis = 1\nmaxActiveThreads = 4\n");
    let output = with("check.properties", lines.as_bytes(), &["--check"]);
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{shown}");
    for line in [
        "applicationName = app  # line 2",
        "retrievalMode = polling  # line 6",
        "failoverTimeMillis = 10000  # default",
        "tableName = app  # from applicationName",
        "warning: line 7: faioverTimeMillis is not a known key; did you mean failoverTimeMillis?",
        "warning: line 8: maxActiveThreads has no effect: this daemon has no thread pools; remove it",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line:?} in {shown}");
    }
}

#[test]
fn files_in_each_wrong_form_are_refused_with_1() {
    for (name, lines, words) in [
        ("empty", "", "Must provide an executable name"),
        ("choice", "metricsLevel = loud", "NONE, SUMMARY, DETAILED"),
        ("escape", "a = \\u00zz", "\\u"),
        ("range", "maxRecords = 10001", "at most 10000"),
        ("missing", "executableName = no-such-program-here", "in no directory of PATH"),
        ("script", "executableName = ./Cargo.toml", "not executable"),
        ("stream", "streamName = a b", "stream_name"),
        ("table", "tableName = x", "lease_table"),
        ("region", "regionName = no region", "region"),
        ("endpoint", "kinesisEndpoint = ftp://x", "kinesis_endpoint_url"),
        ("class", "AwsCredentialsProvider = com.example.Own", "no credential provider"),
        ("properties", "AwsCredentialsProvider = SystemPropertyCredentialsProvider", "-Daws.accessKeyId"),
    ] {
        let lines = if name == "empty" { String::new() } else { format!("{REQUIRED}{lines}\n") };
        for options in [&[][..], &["--check"]] {
            let output = with(&format!("{name}.properties"), lines.as_bytes(), options);
            let said = text(&output.stdout) + &text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{name}: {said}");
            assert!(said.contains("error: ") && said.contains(words), "{name}: {said}");
        }
    }
}

#[test]
fn binary_and_large_files_are_refused() {
    let binary: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    for (name, bytes) in [("binary", binary), ("large", vec![b'x'; 20 * 1024 * 1024])] {
        let output = with(&format!("{name}.properties"), &bytes, &["--check"]);
        assert_eq!(output.status.code(), Some(1), "{name}");
    }
}

#[test]
fn strict_properties_refuse_what_java_ignores() {
    let lines = format!("{REQUIRED}maxRecords = abc\n");
    let lenient = with("lenient.properties", lines.as_bytes(), &["--check"]);
    let strict = with("strict.properties", lines.as_bytes(), &["--check", "--strict-properties"]);
    assert_eq!((lenient.status.code(), strict.status.code()), (Some(0), Some(1)));
}

#[test]
fn missing_files_are_named() {
    let absent = daemon().args(["daemon", "-p", "/no/such/file.properties"]).output().unwrap();
    assert_eq!(absent.status.code(), Some(1));
    assert!(text(&absent.stderr).contains("/no/such/file.properties"), "{}", text(&absent.stderr));
    let none = daemon().arg("daemon").output().unwrap();
    assert_eq!(none.status.code(), Some(1));
    assert!(text(&none.stderr).contains("--properties-file"), "{}", text(&none.stderr));
    let log = with("log.properties", REQUIRED.as_bytes(), &["-l", "/no/such/logback.xml", "--check"]);
    assert_eq!(log.status.code(), Some(1));
    assert!(text(&log.stderr).contains("logback.xml"), "{}", text(&log.stderr));
}

#[test]
fn line_for_java_is_understood() {
    let path = file("java.properties", REQUIRED.as_bytes());
    let directory = path.parent().unwrap().display().to_string();
    let class = "software.amazon.kinesis.multilang.MultiLangDaemon";
    let check = daemon()
        .args(["-cp", &format!("x.jar:{directory}"), class, "-p", "java.properties", "--check"])
        .current_dir("/")
        .output()
        .unwrap();
    assert_eq!(check.status.code(), Some(0), "{}", text(&check.stderr));
    let other = daemon().args(["-cp", "x", class]).output().unwrap();
    assert_eq!(other.status.code(), Some(1), "a line without a properties file");
    let java = path.with_file_name("java");
    let _ = std::fs::remove_file(&java);
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_kinesis-streaming"), &java).unwrap();
        let version = Command::new(&java).arg("-version").output().unwrap();
        assert_eq!(version.status.code(), Some(0), "helpers start it to see whether it can be started");
        let jar = Command::new(&java).args(["-jar", "x.jar"]).output().unwrap();
        assert_eq!(jar.status.code(), Some(1));
    }
}

#[test]
fn secrets_are_not_printed() {
    let lines = format!("{REQUIRED}AwsCredentialsProvider = StaticCredentialsProvider|AKIAX|hush\n");
    let output = with("secret.properties", lines.as_bytes(), &["--check"]);
    let shown = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{shown}");
    assert!(!shown.contains("hush") && !shown.contains("AKIAX"), "{shown}");
}
