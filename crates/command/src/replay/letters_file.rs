//! Reads a file of dead letters, one line of JSON each.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;

use super::item::{self, Item};
use super::{Delivery, Ending, MAX_BATCH_RECORDS};
use crate::exit_code::{CommandError, CommandErrorKind};

/// The longest line, in bytes: a record of 10 MiB in base64, and its fields.
const MAX_LINE_BYTES: u64 = 16 * 1024 * 1024;

/// How many bytes of payloads wait for the destination at a time.
const MAX_BATCH_BYTES: usize = 8 * 1024 * 1024;

/// The place of the lines in the progress.
pub(super) const PLACE: &str = "line";

/// Replays the lines after a number.
pub(super) async fn replay(
    path: &Path,
    after_line: u64,
    skips_malformed: bool,
    delivery: &mut Delivery,
) -> Result<Ending, CommandError> {
    let shown = path.display();
    let unreadable = |error: std::io::Error| {
        let message = format!("{shown} cannot be read: {error}; check its name");
        CommandError::new(CommandErrorKind::Invalid, message).with_source(error)
    };
    let recorded = delivery.progress.position(PLACE).and_then(|line| line.parse().ok());
    let after_line = recorded.unwrap_or(after_line);
    let mut lines = BufReader::new(File::open(path).map_err(unreadable)?);
    let (mut number, mut batch, mut batch_bytes) = (0_u64, Vec::new(), 0);
    loop {
        let mut line = Vec::new();
        let count = lines.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line).map_err(unreadable)?;
        number += 1;
        let is_end = count == 0;
        if !is_end && number > after_line && line.iter().any(|byte| !byte.is_ascii_whitespace()) {
            match read_line(number, &line) {
                Ok(item) => {
                    batch_bytes += item.line.len() + item.data.len();
                    batch.push(item);
                }
                Err(why) if skips_malformed && line.ends_with(b"\n") => {
                    delivery.progress.skip(PLACE, &number.to_string(), &why);
                }
                Err(why) => {
                    delivery.deliver(PLACE, &batch).await?;
                    let message = format!(
                        "line {number} of {shown}: {why}; repair it, or leave such lines out with --skip-malformed"
                    );
                    return Err(CommandError::new(CommandErrorKind::Invalid, message));
                }
            }
        }
        if is_end || batch.len() >= MAX_BATCH_RECORDS || batch_bytes >= MAX_BATCH_BYTES {
            let batch: Vec<Item> = std::mem::take(&mut batch);
            batch_bytes = 0;
            if delivery.deliver(PLACE, &batch).await? == Ending::Enough {
                return Ok(Ending::Enough);
            }
        }
        if is_end {
            return Ok(Ending::Complete);
        }
    }
}

/// The item of a line. The last line of a file that is being written may be unfinished.
fn read_line(number: u64, line: &[u8]) -> Result<Item, String> {
    if line.len() as u64 >= MAX_LINE_BYTES && !line.ends_with(b"\n") {
        return Err(format!("it is longer than {MAX_LINE_BYTES} bytes"));
    }
    item::of_line(number, line)
}
