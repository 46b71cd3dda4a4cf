//! In place of the targets that need crates of AWS, in a build without the feature `aws`.

use crate::Target;

pub(crate) static TARGETS: [Target; 0] = [];
