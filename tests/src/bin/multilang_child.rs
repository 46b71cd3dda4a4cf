//! The record processor of the Java KCL's daemon: it records every delivery in a file.
//!
//! ```text
//! multilang_child FILE WORKER
//! ```

use std::io::{stdin, stdout};
use std::path::Path;
use std::process::ExitCode;

use end_to_end_tests::interop::deliveries::DeliveryFile;
use end_to_end_tests::interop::multilang::MultilangChild;

/// With this interval some deliveries are always not yet checkpointed, so that a kill causes redeliveries.
const CHECKPOINT_EVERY_RECORDS: usize = 50;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, worker] = arguments.as_slice() else {
        eprintln!("usage: multilang_child FILE WORKER");
        return ExitCode::FAILURE;
    };
    let run = || {
        let mut file = DeliveryFile::append_to(Path::new(file))?;
        let record = |batch: &[_]| file.append(batch);
        MultilangChild::new(stdin().lock(), stdout().lock(), worker.clone(), CHECKPOINT_EVERY_RECORDS, record)
            .run()
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("multilang_child: {error}");
            ExitCode::FAILURE
        }
    }
}
