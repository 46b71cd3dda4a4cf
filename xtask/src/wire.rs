//! Tests and programs that use local servers: the fleet over the wire, by polling and by fan-out, and local endpoints to try
//! things with.

use crate::process::{self, Outcome, command};
use crate::{emulators, testing};

/// Three receiver processes against each pair of local servers.
pub(crate) fn run() -> Outcome {
    let emulators = emulators::install()?;
    testing::build_with_aws()?;
    let others = ["wire_fan_out", "wire_fleet", "wire_goaway", "wire_lease_store"];
    let mut test = testing::with_aws("wire_daemon").args(others.iter().flat_map(|test| ["--test", test]));
    test = test.args(["--", "--nocapture", "--test-threads", "1"]);
    match emulators {
        emulators::Installed::In(directory) => test = test.env("EMULATORS_DIR", directory),
        emulators::Installed::LeftOut(why) => {
            println!("LEFT OUT: the servers from npm (kinesis-local, dynalite): {why}");
        }
    }
    test.run()
}

/// Local Kinesis and DynamoDB endpoints until Ctrl-C.
pub(crate) fn local(arguments: &[String]) -> Outcome {
    // The programs that the printed lines call are built with it.
    testing::build_programs(&["local_endpoints", "word_producer", "kinesis_word_count"])?;
    command(&process::built("local_endpoints")).args(arguments).run()
}
