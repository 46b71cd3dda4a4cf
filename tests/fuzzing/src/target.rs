//! A target: one kind of input with the property that holds for all inputs.

/// One kind of input.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and the directory name of its corpus.
    pub name: &'static str,
    /// The property: reads the input, and panics when it does not hold.
    pub check: fn(&[u8]) -> Reading,
    /// Byte strings with a meaning in the format, for mutations.
    pub tokens: &'static [&'static [u8]],
}

/// How an input was classified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Accepted.
    Accepted,
    /// Refused with a clear error.
    Refused,
    /// Not an input for this target.
    Ignored,
}
