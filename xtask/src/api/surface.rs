//! Decides which items of a crate are public, under which paths, and shows each as lines of text.

use std::collections::{BTreeMap, BTreeSet};

use syn::{Fields, ImplItem, Item, TraitItem, Type, UseTree, Visibility};

use super::crate_source::{Module, condition_of, is_left_out};
use super::signature::shown;

/// An item that can be reached from outside.
struct Reached<'a> {
    /// The path that a user writes.
    path: String,
    item: &'a Item,
    condition: Option<String>,
}

/// The surface of the crate of this name, sorted.
pub(super) fn lines(name: &str, root: &Module) -> Vec<String> {
    let mut walk = Walk { root, reached: Vec::new(), others: BTreeSet::new(), visited: BTreeSet::new() };
    walk.module(root, name, None);
    let mut by_item: BTreeMap<usize, Vec<&Reached<'_>>> = BTreeMap::new();
    for reached in &walk.reached {
        by_item.entry(std::ptr::from_ref(reached.item) as usize).or_default().push(reached);
    }
    let implementations = implementations(root);
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for mut paths in by_item.into_values() {
        // The shortest path has the definition; the others refer to it.
        paths.sort_by_key(|reached| (reached.path.matches("::").count(), reached.path.clone()));
        paths.dedup_by_key(|reached| reached.path.clone());
        let (first, rest) = (paths[0], &paths[1..]);
        groups.insert(first.path.clone(), definition(first, &implementations));
        for other in rest {
            groups.insert(other.path.clone(), vec![format!("pub use {} = {}", other.path, first.path)]);
        }
    }
    for (path, line) in walk.others {
        groups.entry(path).or_default().push(line);
    }
    groups.into_values().flatten().collect()
}

/// Walks public modules and re-exports.
struct Walk<'a> {
    root: &'a Module,
    reached: Vec<Reached<'a>>,
    /// Paths and lines of modules, macros and re-exports from other crates.
    others: BTreeSet<(String, String)>,
    /// Modules shown at a path already, so that re-exports in a circle end.
    visited: BTreeSet<(Vec<String>, String)>,
}

impl<'a> Walk<'a> {
    /// All public items of a module, shown at this path.
    fn module(&mut self, module: &'a Module, path: &str, condition: Option<&str>) {
        if !self.visited.insert((module.path.clone(), path.to_owned())) {
            return;
        }
        for item in module.items.iter().filter(|item| !is_left_out(attributes(item))) {
            let condition = either(condition, condition_of(attributes(item)));
            match item {
                Item::Use(item) if is_public(&item.vis) => {
                    self.re_export(&item.tree, &mut Vec::new(), module, path, condition.as_deref());
                }
                Item::Macro(item)
                    if item.attrs.iter().any(|attribute| attribute.path().is_ident("macro_export")) =>
                {
                    let name = item.ident.as_ref().map(ToString::to_string).unwrap_or_default();
                    let crate_name = path.split("::").next().unwrap_or(path);
                    self.others.insert((
                        format!("{crate_name}::{name}"),
                        format!("pub macro {crate_name}::{name}!"),
                    ));
                }
                item => {
                    if let Some((visibility, name)) =
                        named(item).filter(|(visibility, _)| is_public(visibility))
                    {
                        let _ = visibility;
                        self.reached.push(Reached { path: format!("{path}::{name}"), item, condition });
                    }
                }
            }
        }
        for inner in module.modules.iter().filter(|inner| inner.is_public) {
            let name = inner.path.last().map_or("", String::as_str);
            self.inner_module(inner, &format!("{path}::{name}"), condition);
        }
    }

    fn inner_module(&mut self, module: &'a Module, path: &str, condition: Option<&str>) {
        let condition = either(condition, module.condition.clone());
        let line = format!("pub mod {path}{}", shown_condition(condition.as_deref()));
        self.others.insert((path.to_owned(), line));
        self.module(module, path, condition.as_deref());
    }

    fn re_export(
        &mut self,
        tree: &UseTree,
        prefix: &mut Vec<String>,
        module: &'a Module,
        path: &str,
        condition: Option<&str>,
    ) {
        match tree {
            UseTree::Path(tree) => {
                prefix.push(tree.ident.to_string());
                self.re_export(&tree.tree, prefix, module, path, condition);
                prefix.pop();
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.re_export(tree, prefix, module, path, condition);
                }
            }
            UseTree::Name(name) => self.leaf(&name.ident.to_string(), None, prefix, module, path, condition),
            UseTree::Rename(name) => {
                self.leaf(
                    &name.ident.to_string(),
                    Some(&name.rename.to_string()),
                    prefix,
                    module,
                    path,
                    condition,
                );
            }
            UseTree::Glob(_) => match self.local(prefix, module) {
                Some(target) => self.module(target, path, condition),
                None => {
                    let condition = shown_condition(condition);
                    let line = format!("pub use {path}::* = {}::*{condition}", prefix.join("::"));
                    self.others.insert((format!("{path}::*"), line));
                }
            },
        }
    }

    fn leaf(
        &mut self,
        name: &str,
        rename: Option<&str>,
        prefix: &[String],
        module: &'a Module,
        path: &str,
        condition: Option<&str>,
    ) {
        let shown_name = match (name, prefix.last()) {
            ("self", Some(last)) => last.as_str(),
            _ => name,
        };
        let at = format!("{path}::{}", rename.unwrap_or(shown_name));
        if let Some(holder) = self.local(prefix, module)
            && self.local_leaf(holder, name, &at, condition)
        {
            return;
        }
        let source: Vec<&str> =
            prefix.iter().map(String::as_str).chain((name != "self").then_some(name)).collect();
        let line = format!("pub use {at} = {}{}", source.join("::"), shown_condition(condition));
        self.others.insert((at, line));
    }

    /// Shows an item or a module of this crate at a path. Returns whether there is one.
    fn local_leaf(&mut self, holder: &'a Module, name: &str, at: &str, condition: Option<&str>) -> bool {
        if name == "self" {
            self.inner_module(holder, at, condition);
            return true;
        }
        let path = [name.to_owned()];
        let mut is_found = false;
        if let Some(inner) = holder.descendant(&path) {
            self.inner_module(inner, at, condition);
            is_found = true;
        }
        for item in &holder.items {
            if named(item).is_some_and(|(_, found)| found == name) {
                let condition = either(condition, condition_of(attributes(item)));
                self.reached.push(Reached { path: at.to_owned(), item, condition });
                is_found = true;
            } else if let Item::Use(item) = item {
                // The holder re-exports it from somewhere else.
                for (source, shown_name) in leaves(&item.tree) {
                    let (last, prefix) = match source.split_last() {
                        Some((last, prefix)) if shown_name == name => (last.clone(), prefix.to_vec()),
                        _ => continue,
                    };
                    if let Some(next) = self.local(&prefix, holder).filter(|next| next.path != holder.path) {
                        is_found |= self.local_leaf(next, &last, at, condition);
                    }
                }
            }
        }
        is_found
    }

    /// The module of this crate that a path names, seen from a module; `None` for other crates.
    fn local(&self, path: &[String], module: &'a Module) -> Option<&'a Module> {
        let (first, rest) = path.split_first()?;
        let (mut base, mut rest) = match first.as_str() {
            "crate" => (Vec::new(), rest),
            "self" => (module.path.clone(), rest),
            "super" => (module.path[..module.path.len().checked_sub(1)?].to_vec(), rest),
            _ => {
                module.descendant(std::slice::from_ref(first))?;
                (module.path.clone(), path)
            }
        };
        while let Some(next) = rest.strip_prefix(&["super".to_owned()]) {
            base.pop()?;
            rest = next;
        }
        base.extend(rest.iter().cloned());
        self.root.descendant(&base)
    }
}

/// All names of an import, each with its path.
fn leaves(tree: &UseTree) -> Vec<(Vec<String>, String)> {
    match tree {
        UseTree::Path(tree) => {
            let first = tree.ident.to_string();
            let mut found = leaves(&tree.tree);
            found.iter_mut().for_each(|(path, _)| path.insert(0, first.clone()));
            found
        }
        UseTree::Group(group) => group.items.iter().flat_map(leaves).collect(),
        UseTree::Name(name) => vec![(vec![name.ident.to_string()], name.ident.to_string())],
        UseTree::Rename(name) => vec![(vec![name.ident.to_string()], name.rename.to_string())],
        UseTree::Glob(_) => Vec::new(),
    }
}

fn either(outer: Option<&str>, inner: Option<String>) -> Option<String> {
    match (outer, inner) {
        (Some(outer), Some(inner)) if outer != inner => Some(format!("{outer}, {inner}")),
        (outer, inner) => inner.or(outer.map(str::to_owned)),
    }
}

fn shown_condition(condition: Option<&str>) -> String {
    condition.map(|condition| format!(" [{condition}]")).unwrap_or_default()
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

fn attributes(item: &Item) -> &[syn::Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn named(item: &Item) -> Option<(&Visibility, String)> {
    let (visibility, name) = match item {
        Item::Const(item) => (&item.vis, &item.ident),
        Item::Enum(item) => (&item.vis, &item.ident),
        Item::Fn(item) => (&item.vis, &item.sig.ident),
        Item::Static(item) => (&item.vis, &item.ident),
        Item::Struct(item) => (&item.vis, &item.ident),
        Item::Trait(item) => (&item.vis, &item.ident),
        Item::Type(item) => (&item.vis, &item.ident),
        _ => return None,
    };
    Some((visibility, name.to_string()))
}

/// The lines of an item at its path, with the methods and traits of a type.
fn definition(reached: &Reached<'_>, implementations: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let (path, condition) = (&reached.path, shown_condition(reached.condition.as_deref()));
    let mut lines = Vec::new();
    let mut own_name = None;
    match reached.item {
        Item::Const(item) => lines.push(format!("pub const {path}: {}{condition}", shown(&item.ty))),
        Item::Static(item) => lines.push(format!("pub static {path}: {}{condition}", shown(&item.ty))),
        Item::Fn(item) => lines.push(format!("pub {}{condition}", function(&item.sig, path))),
        Item::Type(item) => {
            lines.push(format!("pub type {path}{} = {}{condition}", shown(&item.generics), shown(&item.ty)));
        }
        Item::Struct(item) => {
            own_name = Some(item.ident.to_string());
            let mark = non_exhaustive(&item.attrs);
            lines.push(format!("pub struct {path}{}{mark}{condition}", shown(&item.generics)));
            lines.extend(fields(&item.fields).iter().map(|field| format!("    {field}")));
            lines.extend(derives(&item.attrs));
        }
        Item::Enum(item) => {
            own_name = Some(item.ident.to_string());
            let mark = non_exhaustive(&item.attrs);
            lines.push(format!("pub enum {path}{}{mark}{condition}", shown(&item.generics)));
            for variant in &item.variants {
                let fields: Vec<String> = variant.fields.iter().map(field).collect();
                let fields = match &variant.fields {
                    Fields::Unit => String::new(),
                    Fields::Named(_) => format!(" {{ {} }}", fields.join(", ")),
                    Fields::Unnamed(_) => format!("({})", fields.join(", ")),
                };
                lines.push(format!("    {}{fields}", variant.ident));
            }
            lines.extend(derives(&item.attrs));
        }
        Item::Trait(item) => {
            own_name = Some(item.ident.to_string());
            let bounds = item.supertraits.iter().map(shown).collect::<Vec<_>>().join(" + ");
            let bounds = if bounds.is_empty() { bounds } else { format!(": {bounds}") };
            lines.push(format!("pub trait {path}{}{bounds}{condition}", shown(&item.generics)));
            for part in &item.items {
                lines.extend(trait_part(part).map(|part| format!("    {part}")));
            }
        }
        _ => {}
    }
    let known = own_name.and_then(|name| implementations.get(&name));
    lines.extend(known.into_iter().flatten().map(|line| format!("    {line}")));
    lines
}

fn function(signature: &syn::Signature, path: &str) -> String {
    shown(signature).replacen(&format!("fn {}", signature.ident), &format!("fn {path}"), 1)
}

fn trait_part(part: &TraitItem) -> Option<String> {
    match part {
        TraitItem::Fn(item) if is_left_out(&item.attrs) => None,
        TraitItem::Fn(item) => {
            let default = if item.default.is_some() { " { .. }" } else { "" };
            Some(format!("{}{default}", shown(&item.sig)))
        }
        TraitItem::Type(item) => {
            Some(shown(item).trim_end_matches(';').to_owned()).map(|text| without_docs(&text))
        }
        TraitItem::Const(item) => Some(format!("const {}: {}", item.ident, shown(&item.ty))),
        _ => None,
    }
}

/// Cuts attributes off the front.
fn without_docs(text: &str) -> String {
    text.rsplit_once("type ").map_or_else(|| text.to_owned(), |(_, rest)| format!("type {rest}"))
}

fn non_exhaustive(attributes: &[syn::Attribute]) -> &'static str {
    if attributes.iter().any(|attribute| attribute.path().is_ident("non_exhaustive")) {
        " (non-exhaustive)"
    } else {
        ""
    }
}

fn fields(fields: &Fields) -> Vec<String> {
    fields.iter().filter(|field| is_public(&field.vis) && !is_left_out(&field.attrs)).map(field).collect()
}

fn field(field: &syn::Field) -> String {
    let name = field.ident.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
    format!("{name}{}", shown(&field.ty))
}

fn derives(attributes: &[syn::Attribute]) -> Option<String> {
    let derived = attributes.iter().filter(|attribute| attribute.path().is_ident("derive"));
    let mut names: Vec<String> = derived
        .flat_map(|attribute| {
            let text = shown(attribute);
            let list = text
                .strip_prefix("#[derive(")
                .and_then(|rest| rest.strip_suffix(")]"))
                .unwrap_or("")
                .to_owned();
            list.split(", ").map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    names.sort();
    (!names.is_empty()).then(|| format!("    derives {}", names.join(", ")))
}

/// Public methods, constants and trait implementations by the name of their type, sorted.
fn implementations(module: &Module) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    collect_implementations(module, &mut found);
    for lines in found.values_mut() {
        lines.sort();
        lines.dedup();
    }
    found
}

fn collect_implementations(module: &Module, found: &mut BTreeMap<String, Vec<String>>) {
    for item in &module.items {
        let Item::Impl(item) = item else { continue };
        if is_left_out(&item.attrs) {
            continue;
        }
        let Some(name) = type_name(&item.self_ty) else { continue };
        let lines = found.entry(name).or_default();
        if let Some((path, _)) = &item.trait_ {
            let generics = shown(&item.generics);
            lines.push(format!("impl{generics} {} for {}", shown(path), shown(&item.self_ty)));
            continue;
        }
        for part in &item.items {
            match part {
                ImplItem::Fn(part) if is_public(&part.vis) && !is_left_out(&part.attrs) => {
                    let condition = condition_of(&part.attrs);
                    lines.push(format!("pub {}{}", shown(&part.sig), shown_condition(condition.as_deref())));
                }
                ImplItem::Const(part) if is_public(&part.vis) => {
                    lines.push(format!("pub const {}: {}", part.ident, shown(&part.ty)));
                }
                _ => {}
            }
        }
    }
    module.modules.iter().for_each(|inner| collect_implementations(inner, found));
}

fn type_name(of: &Type) -> Option<String> {
    match of {
        Type::Path(of) => of.path.segments.last().map(|segment| segment.ident.to_string()),
        Type::Reference(of) => type_name(&of.elem),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(name: Option<&str>, is_public: bool, text: &str, modules: Vec<Module>) -> Module {
        let path = name.map(str::to_owned).into_iter().collect();
        Module { path, is_public, condition: None, items: syn::parse_file(text).unwrap().items, modules }
    }

    #[test]
    fn re_exports_and_methods_are_part_of_the_surface() {
        let inner = "#[derive(Debug, Clone)] pub struct Lease { pub owner: String, secret: u8 }
            impl Lease { pub fn renew(&mut self) -> bool { true } fn hidden(&self) {} }
            impl Display for Lease {}
            pub fn not_shown() {}
            #[doc(hidden)] pub fn internal() {}";
        let root = module(
            None,
            true,
            "pub use lease::Lease; pub use other_crate::Thing; mod private { }",
            vec![module(Some("lease"), false, inner, Vec::new())],
        );
        let expected = [
            "pub struct x::Lease",
            "    owner: String",
            "    derives Clone, Debug",
            "    impl Display for Lease",
            "    pub fn renew(&mut self) -> bool",
            "pub use x::Thing = other_crate::Thing",
        ];
        assert_eq!(lines("x", &root), expected);
    }

    #[test]
    fn an_item_with_two_paths_is_defined_at_the_shorter_one() {
        let root = module(
            None,
            true,
            "pub use lease::Lease;",
            vec![module(Some("lease"), true, "pub enum Lease { Free, Held { by: u8 } }", Vec::new())],
        );
        let expected = [
            "pub enum x::Lease",
            "    Free",
            "    Held { by: u8 }",
            "pub mod x::lease",
            "pub use x::lease::Lease = x::Lease",
        ];
        assert_eq!(lines("x", &root), expected);
    }
}
