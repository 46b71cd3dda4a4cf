//! Finds and reads the properties file.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use multilang::java_arguments::DaemonArguments;
use multilang::properties::{
    EffectiveConfiguration, MAX_FILE_BYTES, Strictness, interpret, parse_properties,
};

/// The configuration of the first properties file that exists.
///
/// # Errors
/// When there is none, or it cannot be read or parsed.
pub(super) fn read(arguments: &DaemonArguments) -> Result<EffectiveConfiguration, String> {
    let candidates = arguments.candidates();
    for path in &candidates {
        let bytes = match read_limited(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                return Err(format!("properties file {}: {error}; make it readable", path.display()));
            }
        };
        let strictness = if arguments.is_strict { Strictness::Strict } else { Strictness::Compatible };
        let parsed = parse_properties(&bytes).map_err(|error| format!("{}: {error}", path.display()))?;
        return Ok(interpret(&parsed, strictness));
    }
    let searched: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
    Err(format!("properties file not found: {}; name an existing file", searched.join(", ")))
}

/// One byte more than the parser accepts, so that it can name the limit.
fn read_limited(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_FILE_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}
