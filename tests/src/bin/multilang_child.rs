//! The record processor of the Java KCL's daemon: it records every delivery in a file, and hangs while a test wants it to.
//!
//! ```text
//! multilang_child FILE WORKER
//! ```

use std::io::{stdin, stdout};
use std::path::Path;
use std::process::ExitCode;

use end_to_end_tests::interop::deliveries::{Delivery, DeliveryFile};
use end_to_end_tests::interop::hang::wait_while_hanging;
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
        let path = Path::new(file);
        let mut file = DeliveryFile::append_to(path)?;
        let record = |batch: &[Delivery]| {
            if let Some(delivery) = batch.first() {
                wait_while_hanging(path, &delivery.shard);
            }
            file.append(batch)
        };
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
