//! Checks the imports inside each package: none through `lib.rs`, and no two files that import each other.
//!
//! Only `use` declarations are read. A re-export (`pub use`) shows a name to others and counts for neither check. A module and the
//! modules inside it belong together, so an inner one may import from the outer one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::{Item, UseTree, Visibility};

use super::SourceFile;
use crate::process::Outcome;

/// A path of modules below the root of a package: `["fan_out", "policy"]`.
type ModulePath = Vec<String>;

/// The sources of one package.
#[derive(Debug, Default)]
struct Tree<'a> {
    files: BTreeMap<ModulePath, &'a SourceFile>,
}

/// The faults of all packages.
pub(super) fn faults(sources: &[SourceFile]) -> Outcome<Vec<String>> {
    let mut trees: BTreeMap<PathBuf, Tree<'_>> = BTreeMap::new();
    for source in sources {
        if let Some((root, module)) = place(&source.path) {
            trees.entry(root).or_default().files.insert(module, source);
        }
    }
    let mut faults = Vec::new();
    for tree in trees.values() {
        faults.extend(tree.faults()?);
    }
    Ok(faults)
}

/// The `src` folder of a file and its module; `None` for programs in `src/bin`, and for files outside `src`.
fn place(path: &Path) -> Option<(PathBuf, ModulePath)> {
    let names: Vec<&str> = path.iter().filter_map(|name| name.to_str()).collect();
    let at = names.iter().position(|name| *name == "src")?;
    let mut module: ModulePath = names[at + 1..].iter().map(|name| (*name).to_owned()).collect();
    if module.first().is_some_and(|first| first == "bin") {
        return None;
    }
    let file = module.pop()?;
    match file.strip_suffix(".rs")? {
        "mod" => {}
        "lib" | "main" if module.is_empty() => {}
        name => module.push(name.to_owned()),
    }
    Some((names[..=at].iter().collect(), module))
}

impl Tree<'_> {
    fn faults(&self) -> Outcome<Vec<String>> {
        let mut faults = Vec::new();
        let mut edges: BTreeMap<&ModulePath, BTreeSet<&ModulePath>> = BTreeMap::new();
        for (module, source) in &self.files {
            // The root re-exports the modules below it, and test modules may import anything.
            if module.is_empty() || module.last().is_some_and(|name| name == "tests") {
                continue;
            }
            let shown = source.path.display();
            let file = syn::parse_file(&source.text).map_err(|error| format!("{shown}: {error}"))?;
            let mut imports = Vec::new();
            collect(&file.items, module, &mut imports);
            for import in imports {
                let target = self.target(&import);
                if target.is_empty() && import.first().is_some_and(|name| !self.root_declares(name)) {
                    faults.push(format!(
                        "{shown}: imports crate::{} through the root; name its module",
                        import.join("::")
                    ));
                } else if let Some((target, _)) = self.files.get_key_value(&target)
                    && !module.starts_with(target)
                {
                    edges.entry(module).or_default().insert(target);
                }
            }
        }
        faults.extend(circles(&edges).iter().map(|circle| {
            let files: Vec<String> =
                circle.iter().map(|module| self.files[*module].path.display().to_string()).collect();
            format!("a circle of imports: {}", files.join(", "))
        }));
        Ok(faults)
    }

    /// The innermost module of this package on an import's path.
    fn target(&self, import: &[String]) -> ModulePath {
        let lengths = (1..=import.len()).rev();
        let mut prefixes = lengths.map(|length| import[..length].to_vec());
        prefixes.find(|prefix| self.files.contains_key(prefix)).unwrap_or_default()
    }

    /// Whether the root declares this module: with its body, or with the path of a file elsewhere.
    fn root_declares(&self, name: &str) -> bool {
        let text = self.files.get(&Vec::new()).map_or("", |root| root.text.as_str());
        [" {", ";"].iter().any(|end| text.contains(&format!("mod {name}{end}")))
    }
}

/// The imports of this package among the items, as paths from the root.
fn collect(items: &[Item], module: &ModulePath, imports: &mut Vec<ModulePath>) {
    for item in items {
        match item {
            Item::Use(item) if matches!(item.vis, Visibility::Inherited) => {
                leaves(&item.tree, &mut Vec::new(), &mut |path| imports.extend(from_root(path, module)));
            }
            Item::Mod(inner) if !inner.attrs.iter().any(is_test_only) => {
                let mut path = module.clone();
                path.push(inner.ident.to_string());
                if let Some((_, items)) = &inner.content {
                    collect(items, &path, imports);
                }
            }
            _ => {}
        }
    }
}

fn is_test_only(attribute: &syn::Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && quote::ToTokens::to_token_stream(attribute).to_string().contains("test")
}

fn leaves(tree: &UseTree, path: &mut Vec<String>, each: &mut impl FnMut(&[String])) {
    match tree {
        UseTree::Path(tree) => {
            path.push(tree.ident.to_string());
            leaves(&tree.tree, path, each);
            path.pop();
        }
        UseTree::Group(group) => group.items.iter().for_each(|tree| leaves(tree, path, each)),
        UseTree::Name(name) => leaf(&name.ident, path, each),
        UseTree::Rename(name) => leaf(&name.ident, path, each),
        UseTree::Glob(_) => each(path),
    }
}

fn leaf(name: &syn::Ident, path: &mut Vec<String>, each: &mut impl FnMut(&[String])) {
    path.push(name.to_string());
    each(path);
    path.pop();
}

/// A path that begins with `crate`, `self` or `super`, from the root of the package; `None` for other crates.
fn from_root(path: &[String], module: &ModulePath) -> Option<ModulePath> {
    let mut rest = path.iter();
    let mut base = match rest.next()?.as_str() {
        "crate" => Vec::new(),
        "self" => module.clone(),
        "super" => module[..module.len().checked_sub(1)?].to_vec(),
        _ => return None,
    };
    for name in rest {
        if name == "super" {
            base.pop()?;
        } else if name != "self" {
            base.push(name.clone());
        }
    }
    Some(base)
}

/// Groups of modules that reach each other.
fn circles<'a>(edges: &BTreeMap<&'a ModulePath, BTreeSet<&'a ModulePath>>) -> Vec<Vec<&'a ModulePath>> {
    let reached: BTreeMap<&ModulePath, BTreeSet<&ModulePath>> =
        edges.keys().map(|module| (*module, reachable(module, edges))).collect();
    let mut circles: Vec<Vec<&ModulePath>> = Vec::new();
    for (module, from_here) in &reached {
        let is_known = circles.iter().any(|circle| circle.contains(module));
        if is_known || !from_here.contains(*module) {
            continue;
        }
        let leads_back =
            |other: &&&ModulePath| reached.get(**other).is_some_and(|from| from.contains(*module));
        circles.push(from_here.iter().filter(leads_back).copied().collect());
    }
    circles
}

fn reachable<'a>(
    start: &'a ModulePath,
    edges: &BTreeMap<&'a ModulePath, BTreeSet<&'a ModulePath>>,
) -> BTreeSet<&'a ModulePath> {
    let mut found = BTreeSet::new();
    let mut next = vec![start];
    while let Some(module) = next.pop() {
        next.extend(edges.get(module).into_iter().flatten().copied().filter(|target| found.insert(*target)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(files: &[(&str, &str)]) -> Vec<String> {
        let source =
            |(path, text): &(&str, &str)| SourceFile { path: (*path).into(), text: (*text).to_owned() };
        faults(&files.iter().map(source).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn an_import_through_the_root_is_a_fault() {
        let files = [
            ("a/src/lib.rs", "pub use one::One; mod inside { }"),
            ("a/src/one.rs", "use crate::inside::X; use std::fmt;"),
            ("a/src/two.rs", "use crate::{One, one};"),
        ];
        assert_eq!(check(&files), ["a/src/two.rs: imports crate::One through the root; name its module"]);
    }

    #[test]
    fn files_that_import_each_other_are_a_circle() {
        let files = [
            ("a/src/lib.rs", ""),
            ("a/src/one.rs", "use crate::two::inner::Two;"),
            ("a/src/two/mod.rs", "pub use inner::Two; use self::inner::Other; use self::outer::X;"),
            (
                "a/src/two/inner.rs",
                "use super::super::one::One; #[cfg(test)] mod tests { use super::super::X; }",
            ),
            ("a/src/two/outer.rs", "use super::Two;"),
            ("a/src/three.rs", "use crate::one::One;"),
        ];
        assert_eq!(check(&files), ["a circle of imports: a/src/one.rs, a/src/two/inner.rs"]);
    }

    #[test]
    fn programs_in_bin_are_packages_of_their_own() {
        assert_eq!(place(Path::new("examples/src/bin/x.rs")), None);
        assert_eq!(place(Path::new("a/src/b/mod.rs")), Some((PathBuf::from("a/src"), vec!["b".to_owned()])));
        assert_eq!(place(Path::new("a/tests/b.rs")), None);
    }
}
