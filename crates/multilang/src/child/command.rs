//! `executableName` as a program and its arguments.

use crate::error::{MultilangError, MultilangErrorKind};

/// The program of a child and its arguments.
///
/// `executableName` is split at runs of blanks, as in Java: there are no quotes, no shell and no added arguments, so a path
/// with a blank is impossible. The program is looked up through `PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildCommand {
    program: String,
    arguments: Vec<String>,
}

impl ChildCommand {
    /// Splits the value of `executableName`.
    ///
    /// # Errors
    /// `InvalidProperties` when it is empty.
    pub fn parse(executable_name: &str) -> Result<Self, MultilangError> {
        let mut parts = executable_name.split_ascii_whitespace().map(str::to_owned);
        let program = parts.next().ok_or_else(|| {
            MultilangError::new(
                MultilangErrorKind::InvalidProperties,
                "executableName is empty; set the command of the child, e.g. executableName = sampleapp.py",
            )
        })?;
        Ok(Self { program, arguments: parts.collect() })
    }

    /// The program.
    pub fn program(&self) -> &str {
        &self.program
    }

    /// Its arguments.
    pub fn arguments(&self) -> &[String] {
        &self.arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_is_split_at_blanks_without_quotes() {
        let command = ChildCommand::parse("  python3   app.py --name \"a b\"").unwrap();
        assert_eq!(command.program(), "python3");
        assert_eq!(command.arguments(), ["app.py", "--name", "\"a", "b\""]);
        assert_eq!(ChildCommand::parse("  ").unwrap_err().kind(), MultilangErrorKind::InvalidProperties);
    }
}
