//! Handlers that hang on request: while a file names the shard, a child of the Java daemon does not end its batch.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The time between two checks of a hanging child.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// The file that makes the handler of a shard hang, beside the file of deliveries of its worker.
pub fn hang_file(deliveries: &Path, shard: &str) -> PathBuf {
    deliveries.with_extension(format!("hang-{shard}"))
}

/// Makes the handler of a shard hang until the file is removed.
///
/// # Errors
/// When the file cannot be written.
pub fn hang(deliveries: &Path, shard: &str) -> io::Result<()> {
    std::fs::write(hang_file(deliveries, shard), "")
}

/// Ends a hang.
///
/// # Errors
/// When there is none.
pub fn go_on(deliveries: &Path, shard: &str) -> io::Result<()> {
    std::fs::remove_file(hang_file(deliveries, shard))
}

/// Waits while the handler of the shard has to hang. The child has nothing else to do.
#[allow(clippy::disallowed_methods)] // a child of the daemon reads and writes without a runtime
pub fn wait_while_hanging(deliveries: &Path, shard: &str) {
    let file = hang_file(deliveries, shard);
    while file.exists() {
        std::thread::sleep(CHECK_INTERVAL);
    }
}
