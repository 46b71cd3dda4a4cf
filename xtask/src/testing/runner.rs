//! Runs test programs side by side, as many as there are cores, and reports each when it ends.

use std::collections::{BTreeMap, VecDeque};
use std::io::{IsTerminal as _, Write as _};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::programs::TestProgram;
use super::report::Report;
use crate::process::{Outcome, cargo_program, root, target_directory};

/// How often the progress line is redrawn on a terminal.
const REDRAW_PERIOD: Duration = Duration::from_millis(500);

/// How long nothing may end before a plain log names the programs that still run.
const QUIET_PERIOD: Duration = Duration::from_secs(10);

/// Where the durations of the last run are kept, below the build directory: the longest programs start first.
const DURATIONS: &str = "xtask/test-durations.tsv";

/// The longest programs, the longest one first: a fresh clone has no durations yet.
const LONG_PROGRAMS: [&str; 5] = [
    "end-to-end-tests test embedded",
    "simulation test promises",
    DOC_TESTS,
    "end-to-end-tests test embedded_heap",
    "kinesis-shard-worker test it",
];

/// The title of the job that runs the examples of the documentation.
const DOC_TESTS: &str = "doc tests";

/// What runs as one process.
#[derive(Debug)]
struct Job {
    title: String,
    rerun: String,
    program: PathBuf,
    arguments: Vec<String>,
    directory: PathBuf,
}

/// The start or the end of a job.
enum Event {
    Started(String),
    Ended(Box<Ended>),
}

struct Ended {
    job: Job,
    output: String,
    report: Report,
    time: Duration,
}

/// Runs the programs with these arguments, and the doc tests of the packages if any are named. Fails if any test fails, or if there
/// was none.
// Times are shown to people and order the programs; nothing else depends on them.
#[allow(clippy::disallowed_methods)]
pub(super) fn run(programs: Vec<TestProgram>, arguments: &[String], doc_tests: Option<&str>) -> Outcome {
    let started_at = Instant::now();
    let mut durations = read_durations();
    let mut jobs: Vec<Job> = programs.into_iter().map(|program| test_job(&program, arguments)).collect();
    jobs.extend(doc_tests.map(doc_job));
    jobs.sort_by_cached_key(|job| start_order(&job.title, &durations));
    let (total, workers) = (jobs.len(), thread::available_parallelism().map_or(2, NonZeroUsize::get));
    println!("running {total} test programs, {workers} at a time");
    let queue = Mutex::new(VecDeque::from(jobs));
    // Every job sends two events at most.
    let (events, received) = sync_channel(2 * total + 1);
    let ended = thread::scope(|scope| {
        for _ in 0..workers {
            let events = events.clone();
            scope.spawn(|| work(&queue, events));
        }
        drop(events);
        collect(&received, total)
    });
    for ended in &ended {
        durations.insert(ended.job.title.clone(), u64::try_from(ended.time.as_millis()).unwrap_or(u64::MAX));
    }
    write_durations(&durations);
    conclude(&ended, total, started_at.elapsed())
}

fn test_job(program: &TestProgram, arguments: &[String]) -> Job {
    Job {
        title: program.title(),
        rerun: program.command(),
        program: program.executable.clone(),
        arguments: arguments.to_vec(),
        directory: program.directory.clone(),
    }
}

fn doc_job(packages: &str) -> Job {
    let arguments: Vec<String> =
        format!("test --doc --quiet {packages}").split(' ').map(str::to_owned).collect();
    Job {
        title: DOC_TESTS.to_owned(),
        rerun: format!("cargo {}", arguments.join(" ")),
        program: PathBuf::from(cargo_program()),
        arguments,
        directory: root(),
    }
}

/// Jobs start in ascending order of this key: a program without a duration first, since it may be the longest, and then the longest one.
fn start_order(title: &str, durations: &BTreeMap<String, u64>) -> (std::cmp::Reverse<u64>, usize) {
    let rank = LONG_PROGRAMS.iter().position(|long| *long == title).unwrap_or(LONG_PROGRAMS.len());
    (std::cmp::Reverse(durations.get(title).copied().unwrap_or(u64::MAX)), rank)
}

/// Runs one job after the other until the queue is empty.
// The sender is dropped with the last job: that ends the receiver.
#[allow(clippy::needless_pass_by_value)]
fn work(queue: &Mutex<VecDeque<Job>>, events: SyncSender<Event>) {
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    while let Some(job) = next() {
        // The channel has capacity for all events, and the receiver lives as long as the scope.
        let _ = events.send(Event::Started(job.title.clone()));
        let _ = events.send(Event::Ended(Box::new(execute(job))));
    }
}

#[allow(clippy::disallowed_methods)] // see `run`
fn execute(job: Job) -> Ended {
    let started_at = Instant::now();
    let run = Command::new(&job.program)
        .args(&job.arguments)
        .current_dir(&job.directory)
        .env("CARGO_MANIFEST_DIR", &job.directory)
        .output();
    let (output, succeeded) = match run {
        Ok(run) => {
            let streams = [run.stdout, run.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            (streams.concat(), run.status.success())
        }
        Err(error) => (format!("could not be started: {error}\n"), false),
    };
    let report = Report::read(&output, succeeded);
    Ended { job, output, report, time: started_at.elapsed() }
}

/// Receives events until every worker has ended, and prints them.
#[allow(clippy::disallowed_methods)] // see `run`
fn collect(events: &Receiver<Event>, total: usize) -> Vec<Ended> {
    let is_terminal = std::io::stdout().is_terminal();
    let period = if is_terminal { REDRAW_PERIOD } else { QUIET_PERIOD };
    let mut running: BTreeMap<String, Instant> = BTreeMap::new();
    let mut ended: Vec<Ended> = Vec::new();
    loop {
        match events.recv_timeout(period) {
            Ok(Event::Started(title)) => drop(running.insert(title, Instant::now())),
            Ok(Event::Ended(job)) => {
                running.remove(&job.job.title);
                erase(is_terminal);
                print(&job, ended.len() + 1, total);
                ended.push(*job);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        let titles = running.iter().map(|(title, at)| format!("{title} ({} s)", at.elapsed().as_secs()));
        let progress =
            format!("{} of {total} done; running: {}", ended.len(), titles.collect::<Vec<_>>().join(", "));
        if is_terminal {
            erase(true);
            print!("{progress:.110}");
        } else if running.values().any(|at| at.elapsed() >= QUIET_PERIOD) {
            println!("{progress}");
        }
        // A closed pipe does not change the outcome.
        let _ = std::io::stdout().flush();
    }
    erase(is_terminal);
    ended
}

fn erase(is_terminal: bool) {
    if is_terminal {
        print!("\r\x1b[2K");
    }
}

/// One line and the totals of a program that passed; the whole output of one that failed.
fn print(ended: &Ended, number: usize, total: usize) {
    let has_failed = ended.report.failed > 0;
    let mark = if has_failed { "  FAILED" } else { "" };
    println!("[{number:>2}/{total}] {:>5.1} s  {}{mark}", ended.time.as_secs_f64(), ended.job.title);
    if has_failed {
        println!("{}", ended.output.trim_end());
        return;
    }
    // Many programs have no tests: print nothing for them.
    for line in ended.report.totals.iter().filter(|line| !line.contains(" 0 passed; 0 failed; 0 ignored")) {
        println!("{line}");
    }
}

/// Prints all failures and the sums.
fn conclude(ended: &[Ended], total: usize, time: Duration) -> Outcome {
    let passed: u64 = ended.iter().map(|ended| ended.report.passed).sum();
    let failed: u64 = ended.iter().map(|ended| ended.report.failed).sum();
    for ended in ended.iter().filter(|ended| ended.report.failed > 0) {
        println!("\nfailed: {} (`{}`)", ended.job.title, ended.job.rerun);
        ended.report.failures.iter().for_each(|test| println!("    {test}"));
    }
    println!("\n{total} test programs in {:.1} s", time.as_secs_f64());
    println!("{passed} passed, {failed} failed");
    if failed > 0 {
        return Err(format!("{failed} tests failed"));
    }
    if ended.len() < total {
        return Err(format!("{} test programs did not run", total - ended.len()));
    }
    if passed == 0 { Err("no test ran".to_owned()) } else { Ok(()) }
}

fn read_durations() -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string(target_directory().join(DURATIONS)).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once('\t'));
    lines.filter_map(|(title, millis)| Some((title.to_owned(), millis.parse().ok()?))).collect()
}

/// Keeps the durations for the next run, which does without them if they cannot be written.
fn write_durations(durations: &BTreeMap<String, u64>) {
    let path = target_directory().join(DURATIONS);
    let text: String = durations.iter().map(|(title, millis)| format!("{title}\t{millis}\n")).collect();
    if let Some(parent) = path.parent() {
        let _ = std::fs::create_dir_all(parent);
    }
    let _ = std::fs::write(path, text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(title: &str, script: &str) -> Job {
        Job {
            title: title.to_owned(),
            rerun: String::new(),
            program: PathBuf::from("sh"),
            arguments: vec!["-c".to_owned(), script.to_owned()],
            directory: root(),
        }
    }

    #[test]
    fn a_failed_program_fails_the_run() {
        let good = "echo 'test result: ok. 2 passed; 0 failed; 0 ignored'";
        let bad =
            "echo 'test x ... FAILED'; echo 'test result: FAILED. 1 passed; 1 failed; 0 ignored'; exit 101";
        let ended = [execute(shell("good", good)), execute(shell("bad", bad))];
        assert_eq!(conclude(&ended, 2, Duration::ZERO), Err("1 tests failed".to_owned()));
        assert_eq!(conclude(&ended[..1], 1, Duration::ZERO), Ok(()));
        assert_eq!(conclude(&ended[..1], 2, Duration::ZERO), Err("1 test programs did not run".to_owned()));
        assert_eq!(conclude(&[], 0, Duration::ZERO), Err("no test ran".to_owned()));
    }

    #[test]
    fn the_longest_programs_start_first() {
        let ordered = |durations: &[(&str, u64)]| {
            let durations = durations.iter().map(|(title, millis)| ((*title).to_owned(), *millis)).collect();
            let mut titles = ["a", "b", DOC_TESTS, "end-to-end-tests test embedded"];
            titles.sort_by_key(|title| start_order(title, &durations));
            titles
        };
        assert_eq!(ordered(&[]), ["end-to-end-tests test embedded", DOC_TESTS, "a", "b"]);
        let known = [("a", 1), ("b", 4000), (DOC_TESTS, 3), ("end-to-end-tests test embedded", 50)];
        assert_eq!(ordered(&known), ["b", "end-to-end-tests test embedded", DOC_TESTS, "a"]);
        assert_eq!(ordered(&known[1..])[0], "a", "a program without a duration may be the longest");
    }

    #[test]
    fn jobs_run_side_by_side_and_all_are_reported() {
        let jobs = (0..5).map(|number| shell(&number.to_string(), "true"));
        let queue = Mutex::new(jobs.collect());
        let (events, received) = sync_channel(11);
        let ended = thread::scope(|scope| {
            for _ in 0..2 {
                let events = events.clone();
                scope.spawn(|| work(&queue, events));
            }
            drop(events);
            collect(&received, 5)
        });
        assert_eq!(ended.len(), 5);
    }

    #[test]
    fn a_program_that_is_absent_counts_as_failed() {
        let mut job = shell("absent", "");
        job.program = PathBuf::from("/no/such/program");
        let ended = execute(job);
        assert_eq!(ended.report.failed, 1);
        assert!(ended.output.contains("could not be started"), "{}", ended.output);
    }
}
