//! The main job over local servers, with its page in a browser: a producer, three workers and `kinesis-streaming serve`.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::process::{Outcome, built, root};
use crate::testing;

/// The stream and the application of the demo.
const STREAM: &str = "words";
const APPLICATION: &str = "word-count";

/// How many shards the stream has, and how many workers share them.
const SHARDS: u32 = 8;
const WORKERS: u32 = 3;

/// How many records the producer puts in all, and in a second: for some hours.
const RECORDS: u32 = 1_000_000;
const RECORDS_PER_SECOND: u32 = 100;

/// The address of the page.
const ADDRESS: &str = "127.0.0.1:9464";

/// The addresses of the local servers: free ones.
const ANY_ADDRESS: &str = "127.0.0.1:0";

/// How often a program is asked whether something is there, and the wait in between: a minute.
const MAX_QUESTIONS: u32 = 120;
const QUESTION_WAIT: Duration = Duration::from_millis(500);

/// The environment of the programs: the local servers accept any credentials, but require some.
const ENVIRONMENT: [(&str, &str); 4] = [
    ("AWS_ACCESS_KEY_ID", "000000000000"),
    ("AWS_SECRET_ACCESS_KEY", "local"),
    ("AWS_REGION", "us-east-1"),
    ("AWS_EC2_METADATA_DISABLED", "true"),
];

/// The programs of the demo. They end with it.
#[derive(Debug, Default)]
struct Programs(Vec<Child>);

impl Drop for Programs {
    fn drop(&mut self) {
        for child in self.0.iter_mut().rev() {
            // It may have ended by itself, as all do at Ctrl-C.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Programs {
    /// Starts a program without its output. The page shows what it does.
    fn start(&mut self, program: &str, arguments: &[&str]) -> Outcome {
        self.spawn(program, arguments, false).map(drop)
    }

    /// Starts a program whose standard output is read here.
    fn start_read(&mut self, program: &str, arguments: &[&str]) -> Outcome<ChildStdout> {
        let output = self.spawn(program, arguments, true)?;
        output.ok_or_else(|| format!("`{program}` has no output"))
    }

    fn spawn(&mut self, program: &str, arguments: &[&str], is_shown: bool) -> Outcome<Option<ChildStdout>> {
        let output = if is_shown { Stdio::piped() } else { Stdio::null() };
        println!("$ {program} {}", arguments.join(" "));
        let mut command = Command::new(built(program));
        let errors = if is_shown { Stdio::inherit() } else { Stdio::null() };
        command.args(arguments).current_dir(root()).stdin(Stdio::null()).stdout(output).stderr(errors);
        command.envs(ENVIRONMENT);
        let mut child =
            command.spawn().map_err(|error| format!("`{program}` could not be started: {error}"))?;
        let output = child.stdout.take();
        self.0.push(child);
        Ok(output)
    }
}

/// Builds the programs, and runs them until Ctrl-C, or until the server of the page ends.
pub(crate) fn run(arguments: &[String]) -> Outcome {
    let address = match arguments {
        [] => ADDRESS,
        [address] => address.as_str(),
        _ => return Err("usage: cargo xtask demo --page [ADDRESS]".to_owned()),
    };
    testing::build_programs(&[
        "local_endpoints",
        "word_producer",
        "kinesis_word_count",
        "kinesis-streaming",
    ])?;
    let mut programs = Programs::default();
    let servers = programs.start_read("local_endpoints", &[ANY_ADDRESS, ANY_ADDRESS])?;
    // Kept open: the few further lines fit into the pipe.
    let mut servers = BufReader::new(servers).lines();
    let first = servers.next().and_then(Result::ok).unwrap_or_default();
    let (kinesis, dynamodb) =
        endpoints(&first).ok_or_else(|| format!("local_endpoints printed {first:?}"))?;
    let (shards, records) = (SHARDS.to_string(), RECORDS.to_string());
    let rate = RECORDS_PER_SECOND.to_string();
    let producer = ["--stream", STREAM, "--endpoint-url", &kinesis, "--create-with-shards", &shards];
    let producer = [&producer[..], &["--make-records", &records, "--records-per-second", &rate]].concat();
    programs.start("word_producer", &producer)?;
    let watch = ["--kinesis-endpoint-url", kinesis.as_str(), "--dynamodb-endpoint-url", &dynamodb];
    await_success(&[&["cat", STREAM, "--max-records", "1"][..], &watch].concat())?;
    let services = ["--endpoint-url", kinesis.as_str(), "--dynamodb-endpoint-url", &dynamodb];
    for number in 1..=WORKERS {
        let name = format!("worker-{number}");
        let worker =
            ["--stream", STREAM, "--application", APPLICATION, "--worker-id", &name, "--receivers", "1"];
        let worker = [&worker[..], &services].concat();
        programs.start("kinesis_word_count", &worker)?;
    }
    await_success(&[&["lag", APPLICATION, "--stream", STREAM][..], &watch].concat())?;
    let page = [
        "serve",
        APPLICATION,
        "--stream",
        STREAM,
        "--listen",
        address,
        "--interval",
        "2s",
        "--allow-changes",
    ];
    let page = programs.start_read("kinesis-streaming", &[&page[..], &watch].concat())?;
    for line in BufReader::new(page).lines().map_while(Result::ok) {
        println!("{line}\nCtrl-C ends the demo.");
    }
    Err("the server of the page ended".to_owned())
}

/// Waits until `kinesis-streaming` succeeds with these arguments.
fn await_success(arguments: &[&str]) -> Outcome {
    let mut command = Command::new(built("kinesis-streaming"));
    command
        .args(arguments)
        .envs(ENVIRONMENT)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    for _ in 0..MAX_QUESTIONS {
        if command.status().is_ok_and(|status| status.success()) {
            return Ok(());
        }
        // There is no runtime here, and nothing else to do.
        #[allow(clippy::disallowed_methods)]
        std::thread::sleep(QUESTION_WAIT);
    }
    Err(format!("`kinesis-streaming {}` does not succeed; run it by hand", arguments.join(" ")))
}

/// The endpoints of Kinesis and DynamoDB, from the first line of `local_endpoints`.
fn endpoints(line: &str) -> Option<(String, String)> {
    let after = |name: &str| {
        let text = line.split(name).nth(1)?;
        Some(text.split([',', ';']).next()?.trim().to_owned()).filter(|url| url.starts_with("http://"))
    };
    after("Kinesis ").zip(after("DynamoDB "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_from_the_first_line() {
        let line =
            "Kinesis http://127.0.0.1:4567, DynamoDB http://127.0.0.1:8000; nothing is kept when they end.";
        let expected = ("http://127.0.0.1:4567".to_owned(), "http://127.0.0.1:8000".to_owned());
        assert_eq!(endpoints(line), Some(expected));
        assert_eq!(endpoints("local_endpoints: 127.0.0.1:4567 cannot be used"), None);
    }
}
