//! Our packages for Python and npm beside unmodified clients: `cargo xtask daemon-tests` builds and installs them into fresh
//! environments, and each test starts an application by one command.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use end_to_end_tests::daemon::scene::{Scene, send_signal};
use end_to_end_tests::interop::wait_for;
use tokio::process::Command;

use crate::{
    LIMIT, SHARDS, as_java, child_that_prints, client, count, printed_text, runs_twice, wait_for_numbers,
};

/// The virtual environment with the wheel and `amazon_kclpy`.
const VENV_VARIABLE: &str = "DAEMON_VENV";

/// The wheel.
const WHEEL_VARIABLE: &str = "DAEMON_WHEEL";

/// The folder with `node_modules`, which has our packages and `aws-kcl`.
const NPM_VARIABLE: &str = "DAEMON_NPM_PREFIX";

/// What a shell has that activated no environment.
const PLAIN_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The number of the signal that kills.
const SIGKILL: i32 = 9;

/// The command of a package, with credentials for the local servers, as a person would type it.
fn packaged(program: &Path, arguments: &[&OsStr]) -> Command {
    let arguments: Vec<String> = arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let mut command = as_java(program, &arguments);
    command.stdin(Stdio::null());
    command
}

async fn output(command: &mut Command) -> Output {
    command.output().await.unwrap()
}

/// The standard output of a command that succeeds.
async fn printed_by(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = output(command).await;
    assert!(status.success(), "{status}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// amazon-kinesis-client-python#1, #6: scripts in a virtual environment were not found. Here it is not activated. #252: no jar is
/// installed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wheel_starts_the_python_sample_by_one_command() {
    let Some(venv) = client(VENV_VARIABLE) else { return };
    let scene = Scene::new("wheel", SHARDS).await;
    let start = async |scene: &Scene| {
        let child = child_that_prints(scene, "w", "sample_kclpy_app.py");
        let properties = scene.properties_of("w", &child, "");
        let arguments = ["--properties".as_ref(), properties.as_os_str()];
        let mut command = packaged(&venv.join("bin/kinesis-streaming-kclpy"), &arguments);
        command.env("PATH", PLAIN_PATH);
        command
    };
    runs_twice(scene, start, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wheel_accepts_the_options_of_the_helper() {
    let Some(venv) = client(VENV_VARIABLE) else { return };
    let launcher = venv.join("bin/kinesis-streaming-kclpy");
    let words =
        ["--print_command", "--java", "/usr/bin/java", "-c", "x.jar", "-p", "a b.properties", "--check"];
    let line = printed_by(packaged(&launcher, &words.map(OsStr::new)).env("PATH", PLAIN_PATH)).await;
    let expected = "/bin/kinesis-streaming daemon --properties-file 'a b.properties' --check\n";
    assert!(line.ends_with(expected), "{line}");
    let sample = printed_by(&mut packaged(&launcher, &["--print_command", "--sample"].map(OsStr::new))).await;
    assert!(sample.trim_end().ends_with("samples/sample.properties"), "{sample}");
    let nothing = output(&mut packaged(&launcher, &[])).await;
    assert_eq!(nothing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("--properties FILE"), "{nothing:?}");
}

/// ruff#11246: `pip install --target` put the program where the module did not look for it. setuptools#1587: programs lost the
/// permission to be executed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wheel_runs_without_scripts_and_without_permissions() {
    let (Some(venv), Some(wheel)) = (client(VENV_VARIABLE), client(WHEEL_VARIABLE)) else { return };
    let target = venv.with_file_name("target-folder");
    let _ = fs::remove_dir_all(&target);
    let python = venv.join("bin/python");
    let words = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"].map(OsStr::new);
    printed_by(&mut packaged(&python, &[&words[..], &[target.as_os_str(), wheel.as_os_str()]].concat()))
        .await;
    let version = async || {
        let mut command =
            packaged(Path::new("python3"), &["-m", "kinesis_streaming", "--version"].map(OsStr::new));
        printed_by(command.env("PYTHONPATH", &target)).await
    };
    assert!(version().await.starts_with("kinesis-streaming "));
    let program = target.join("kinesis_streaming/bin/kinesis-streaming");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(version().await.starts_with("kinesis-streaming "));

    fs::remove_file(&program).unwrap();
    let mut command = packaged(Path::new("python3"), &["-m", "kinesis_streaming"].map(OsStr::new));
    let missing = output(command.env("PYTHONPATH", &target)).await;
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("--force-reinstall"), "{missing:?}");
}

/// moraine#246, pyscn#760: wheels promised an older glibc than their programs need. `pip` refuses those it cannot run.
#[test]
fn wheel_names_the_platform_of_its_program() {
    let Some(wheel) = client(WHEEL_VARIABLE) else { return };
    let name = wheel.file_name().unwrap().to_string_lossy().into_owned();
    let version = env!("CARGO_PKG_VERSION");
    let platform = name.strip_prefix(&format!("kinesis_streaming-{version}-py3-none-")).unwrap();
    assert!(
        ["manylinux_", "musllinux_", "macosx_"].iter().any(|system| platform.starts_with(system)),
        "{name}"
    );
}

fn node_program(folder: &Path, name: &str) -> PathBuf {
    folder.join("node_modules/.bin").join(name)
}

/// The application and its properties file. The application is beside the packages, which it finds as Node.js does.
fn node_application(scene: &Scene, folder: &Path) -> PathBuf {
    let script = folder.join("app.js");
    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/daemon_clients/consumer.js"), &script).unwrap();
    let child = child_that_prints(scene, "w", &format!("node {}", script.display()));
    scene.properties_of("w", &child, "")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn npm_package_starts_the_node_processor_by_one_command() {
    let Some(folder) = client(NPM_VARIABLE) else { return };
    let scene = Scene::new("npm", SHARDS).await;
    let start = async |scene: &Scene| {
        let properties = node_application(scene, &folder);
        let arguments = ["-p".as_ref(), properties.as_os_str(), "-e".as_ref()];
        packaged(&node_program(&folder, "kinesis-streaming-kcl"), &arguments)
    };
    runs_twice(scene, start, 0).await;
}

/// opencode#20899: SIGTERM ended the launcher and left the program behind. tableland-js#146: Ctrl-C, which reaches the launcher and
/// the program, arrived twice, and a second signal ends at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signal_to_the_group_of_the_npm_launcher_counts_once() {
    let Some(folder) = client(NPM_VARIABLE) else { return };
    for signal in ["-INT", "-TERM"] {
        let mut scene = Scene::new(&format!("npm-group{signal}"), SHARDS).await;
        scene.put(100).await;
        let properties = node_application(&scene, &folder);
        let arguments = ["daemon".as_ref(), "-p".as_ref(), properties.as_os_str()];
        let mut command = packaged(&node_program(&folder, "kinesis-streaming"), &arguments);
        command.process_group(0);
        let mut daemon = scene.spawn("w", command);
        wait_for_numbers(&scene, &daemon).await;
        send_signal(signal, &format!("-{}", daemon.process.id().unwrap())).await;
        assert_eq!(daemon.ended().await, Some(0), "{}", daemon.log());
        let lost = count(&printed_text(&scene), "Lease has been lost");
        assert_eq!(lost, usize::try_from(SHARDS).unwrap(), "{}", daemon.log());
    }
}

/// pgbot#84: a launcher ended with 0 although its program was killed.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn npm_launcher_ends_as_its_program_does() {
    let Some(folder) = client(NPM_VARIABLE) else { return };
    let program = node_program(&folder, "kinesis-streaming");
    let refused = output(&mut packaged(&program, &["daemon", "-p", "/nowhere"].map(OsStr::new))).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");

    let scene = Scene::new("npm-killed", SHARDS).await;
    let properties = node_application(&scene, &folder);
    let mut launcher = packaged(&program, &["daemon".as_ref(), "-p".as_ref(), properties.as_os_str()]);
    launcher.env("KINESIS_STREAMING_NO_EXEC", "1");
    let mut daemon = scene.spawn("w", launcher);
    let launcher = daemon.process.id().unwrap();
    let children = format!("/proc/{launcher}/task/{launcher}/children");
    let child = wait_for("the launcher has a child", LIMIT, async || {
        let children = fs::read_to_string(&children).unwrap_or_default();
        children.split_whitespace().next().map(str::to_owned).ok_or(children)
    })
    .await;
    send_signal("-KILL", &child).await;
    let status = tokio::time::timeout(LIMIT, daemon.process.wait()).await.unwrap().unwrap();
    assert_eq!(status.signal(), Some(SIGKILL), "{status}");
}

/// npm/cli#4828: a lock file of another platform leaves the optional dependency out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn npm_package_names_the_missing_program() {
    let Some(folder) = client(NPM_VARIABLE) else { return };
    let scene = Scene::new("npm-missing", 1).await;
    let copy = scene.directory.join("copy");
    let source = folder.join("node_modules/kinesis-streaming");
    let copied = Command::new("cp").args(["-R"]).args([&source, &copy]).status().await.unwrap();
    assert!(copied.success());
    for (program, words) in [
        ("kinesis-streaming", &["--version"][..]),
        ("kinesis-streaming-kcl", &["-p", "a", "-e"]),
        ("kinesis-streaming-kcl", &["-p", "a"]),
    ] {
        let words: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
        let missing = output(&mut packaged(&copy.join(format!("bin/{program}.js")), &words)).await;
        assert_eq!(missing.status.code(), Some(1), "{missing:?}");
        let text = String::from_utf8(missing.stderr).unwrap();
        assert!(text.contains("@kinesis-streaming/") && text.contains("package-lock.json"), "{text}");
    }
}
