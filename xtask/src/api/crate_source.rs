//! Reads all modules of a crate from its `lib.rs` on.

use std::fs;
use std::path::{Path, PathBuf};

use syn::{Attribute, Item};

use super::signature::shown;
use crate::process::Outcome;

/// A module with its items; inner modules are not among the items.
pub(super) struct Module {
    pub(super) path: Vec<String>,
    pub(super) is_public: bool,
    /// `feature = "..."` that the module is built with.
    pub(super) condition: Option<String>,
    pub(super) items: Vec<Item>,
    pub(super) modules: Vec<Module>,
}

impl Module {
    /// The module at a path below this one.
    pub(super) fn descendant(&self, path: &[String]) -> Option<&Module> {
        let Some((first, rest)) = path.split_first() else { return Some(self) };
        self.modules.iter().find(|module| module.path.last() == Some(first))?.descendant(rest)
    }
}

/// Reads the crate whose root is this file.
pub(super) fn read(root: &Path) -> Outcome<Module> {
    let folder = root.parent().unwrap_or(root).to_owned();
    module(&[], true, None, parse(root)?, &folder)
}

fn parse(file: &Path) -> Outcome<Vec<Item>> {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(syn::parse_file(&text).map_err(|error| format!("{}: {error}", file.display()))?.items)
}

/// `folder` is where the files of inner modules are.
fn module(
    path: &[String],
    is_public: bool,
    condition: Option<String>,
    items: Vec<Item>,
    folder: &Path,
) -> Outcome<Module> {
    let mut here =
        Module { path: path.to_vec(), is_public, condition, items: Vec::new(), modules: Vec::new() };
    for item in items {
        let Item::Mod(inner) = item else {
            here.items.push(item);
            continue;
        };
        if is_left_out(&inner.attrs) {
            continue;
        }
        let name = inner.ident.to_string();
        let inner_folder = folder.join(&name);
        let inner_items = match inner.content {
            Some((_, items)) => items,
            None => parse(&file_of(folder, &name))?,
        };
        let inner_path = [path, &[name]].concat();
        let is_public = matches!(inner.vis, syn::Visibility::Public(_));
        here.modules.push(module(
            &inner_path,
            is_public,
            condition_of(&inner.attrs),
            inner_items,
            &inner_folder,
        )?);
    }
    Ok(here)
}

fn file_of(folder: &Path, name: &str) -> PathBuf {
    let flat = folder.join(format!("{name}.rs"));
    if flat.is_file() { flat } else { folder.join(name).join("mod.rs") }
}

/// Hidden from the documentation, or built only for tests or the feature `internals`.
pub(super) fn is_left_out(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let text = shown(attribute);
        text == "#[doc(hidden)]" || text == "#[cfg(test)]" || text.contains("feature = \"internals\"")
    })
}

/// The condition in `#[cfg(...)]`.
pub(super) fn condition_of(attributes: &[Attribute]) -> Option<String> {
    let mut conditions = attributes.iter().filter_map(|attribute| {
        let text = shown(attribute);
        Some(text.strip_prefix("#[cfg(")?.strip_suffix(")]")?.to_owned())
    });
    conditions.next()
}
