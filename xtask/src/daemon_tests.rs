//! The daemon with unmodified clients of the KCL for other languages: installs them into `target/daemon-clients` and runs the test.

use std::path::{Path, PathBuf};

use crate::process::{Outcome, command, root, target_directory};
use crate::{daemon_packages, interop, packaging, testing};

/// The client for Python, with its exact version. It is taken as source: its wheel is built with jars from Maven.
const PYTHON_PACKAGE: (&str, &str) = ("amazon_kclpy", "3.2.0");

/// The client for Node.js, with its exact version.
const NODE_PACKAGE: (&str, &str) = ("aws-kcl", "2.3.2");

/// The random kills of the full form, each with 50 records on average.
const STORM_KILLS: &str = "150";

/// The size of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// With the real Java daemon as a reference and as a peer, where Java is present.
    Full,
    /// The clients alone.
    Short,
}

/// The clients that this machine can run.
#[derive(Debug, Default)]
struct Clients {
    python: bool,
    node: bool,
}

/// Installs the clients that can run here, and runs the test with them. Fails without any.
pub(crate) fn run(form: Form) -> Outcome {
    let directory = root().join("target/daemon-clients");
    let clients = install(&directory)?;
    if clients.python || clients.node {
        return test_with(&directory, &clients, form);
    }
    Err("no client of the daemon can run here; install Python 3 with pip, or Node.js with npm".to_owned())
}

/// Installs the clients that can run here, and prints why others cannot.
fn install(directory: &Path) -> Outcome<Clients> {
    std::fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let mut clients = Clients::default();
    for (name, is_installed, installed) in [
        ("Python", &mut clients.python, install_python(directory)),
        ("Node.js", &mut clients.node, install_node(directory)),
    ] {
        match installed {
            Ok(()) => *is_installed = true,
            Err(reason) => println!("LEFT OUT: the client for {name}: {reason}"),
        }
    }
    Ok(clients)
}

fn test_with(directory: &Path, clients: &Clients, form: Form) -> Outcome {
    let jars = match (form, interop::missing()) {
        (Form::Short, _) => None,
        (Form::Full, None) => Some(interop::install()?),
        (Form::Full, Some(missing)) => {
            println!("LEFT OUT: the Java daemon as reference and peer: {missing}");
            None
        }
    };
    testing::build_with_aws()?;
    let mut test = testing::with_aws("daemon_clients --");
    test = test.args(["--nocapture", "--test-threads", "1"]);
    if clients.python {
        let client = python_folder(directory);
        if let Some(environment) = daemon_packages::python(directory, &client)? {
            test = test.env("DAEMON_VENV", environment.folder).env("DAEMON_WHEEL", environment.wheel);
        }
        test = test.env("DAEMON_PYTHON_CLIENT", client);
    }
    if clients.node {
        test = test.env("DAEMON_NPM_PREFIX", daemon_packages::node(directory, directory)?);
        test = test.env("DAEMON_NODE_CLIENT", directory.join("node_modules"));
    }
    if let Some(jars) = jars {
        test = test.env("KCL_JARS_DIR", jars);
    }
    test.run()?;
    match form {
        Form::Full => storm(),
        // `wire` runs a short one.
        Form::Short => Ok(()),
    }
}

/// Measures a release build of the daemon, beside the Java daemon where Java is present. The figures are printed.
pub(crate) fn figures() -> Outcome {
    packaging::build_program()?;
    testing::build_with_aws()?;
    let release = target_directory().join("release");
    let measure = |test: &str| {
        let words = format!("{test} -- --nocapture --test-threads 1");
        testing::with_aws(&words).env("KINESIS_STREAMING_FOLDER", &release).env("DAEMON_FIGURES", "1")
    };
    measure("wire_daemon").args(["figures::"]).run()?;
    let measure = measure("daemon_clients").args(["cost::"]);
    match interop::missing() {
        None => measure.env("KCL_JARS_DIR", interop::install()?).run(),
        Some(missing) => {
            println!("LEFT OUT: the CPU time of the Java daemon: {missing}");
            measure.run()
        }
    }
}

/// Kills children and daemons at random, which needs no client.
fn storm() -> Outcome {
    testing::with_aws("wire_daemon -- --nocapture random_kills").env("DAEMON_STORM_KILLS", STORM_KILLS).run()
}

/// Runs the short form; without a client that can be installed it prints why it is left out.
pub(crate) fn run_short_where_possible() -> Outcome {
    let directory = root().join("target/daemon-clients");
    let clients = install(&directory)?;
    if clients.python || clients.node {
        return test_with(&directory, &clients, Form::Short);
    }
    println!("LEFT OUT: clients of the daemon in other languages: none can be installed");
    Ok(())
}

fn python_folder(directory: &Path) -> PathBuf {
    let (name, version) = PYTHON_PACKAGE;
    directory.join(format!("{name}-{version}"))
}

/// Downloads the source package and unpacks it unless it is there. Nothing of it is installed or changed.
fn install_python(directory: &Path) -> Outcome {
    let (name, version) = PYTHON_PACKAGE;
    command("python3").args(["-m", "pip", "--version"]).output()?;
    let folder = python_folder(directory);
    if folder.join("samples/sample_kclpy_app.py").is_file() {
        return Ok(());
    }
    command("python3")
        .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"])
        .args(["--no-binary", ":all:", "--dest"])
        .args([directory])
        .args([format!("{name}=={version}")])
        .run()?;
    let archive = directory.join(format!("{name}-{version}.tar.gz"));
    // Unpacked next to its final folder and renamed, so that an interrupted run leaves no incomplete folder.
    let unpacking = directory.join("unpacking");
    let _ = std::fs::remove_dir_all(&unpacking);
    command("python3").args(["-m", "tarfile", "-e"]).args([&archive, &unpacking]).run()?;
    let _ = std::fs::remove_dir_all(&folder);
    let unpacked = unpacking.join(format!("{name}-{version}"));
    std::fs::rename(&unpacked, &folder).map_err(|error| format!("{}: {error}", unpacked.display()))
}

fn install_node(directory: &Path) -> Outcome {
    let (name, version) = NODE_PACKAGE;
    command("node").args(["--version"]).output()?;
    command("npm").args(["--version"]).output()?;
    let manifest = directory.join("node_modules").join(name).join("package.json");
    if std::fs::read_to_string(manifest)
        .is_ok_and(|text| text.contains(&format!("\"version\": \"{version}\"")))
    {
        return Ok(());
    }
    command("npm")
        .args(["install", "--no-audit", "--no-fund", "--loglevel", "error", "--prefix"])
        .args([directory])
        .args([format!("{name}@{version}")])
        .run()
}
