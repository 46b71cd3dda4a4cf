//! Looks as lines of JSON in a file, for `describe --record`: a verdict can be replayed from them with `fleet-view`.

use std::io;
use std::path::{Path, PathBuf};

use fleet_view::Look;
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt as _;

use crate::exit_code::{CommandError, CommandErrorKind};

/// A file to which looks are appended.
#[derive(Debug)]
pub(crate) struct Recording {
    path: PathBuf,
    file: File,
}

impl Recording {
    /// Opens the file, or creates it. Earlier looks in it stay.
    ///
    /// # Errors
    /// `Output` when the file cannot be opened.
    pub(crate) async fn append_to(path: &Path) -> Result<Self, CommandError> {
        let opened = OpenOptions::new().create(true).append(true).open(path).await;
        let file = opened.map_err(|error| not_written(path, error))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Appends a look as one line.
    ///
    /// # Errors
    /// `Output` when the line cannot be written.
    pub(crate) async fn add(&mut self, look: &Look) -> Result<(), CommandError> {
        let mut line = serde_json::to_string(look).map_err(|error| not_written(&self.path, error.into()))?;
        line.push('\n');
        let written = async {
            self.file.write_all(line.as_bytes()).await?;
            self.file.flush().await
        };
        written.await.map_err(|error| not_written(&self.path, error))
    }
}

fn not_written(path: &Path, error: io::Error) -> CommandError {
    let message =
        format!("the looks cannot be written to {}; name a file in a writable folder", path.display());
    CommandError::new(CommandErrorKind::Output, message).with_source(error)
}
