//! The rule of the house that the compiler does not check: imports between modules point one way.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

type Imports = BTreeMap<String, BTreeSet<String>>;

/// The first names after each `prefix`: one, or those between braces.
fn names<'a>(text: &'a str, prefix: &str) -> impl Iterator<Item = &'a str> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    text.split(prefix).skip(1).flat_map(move |rest| {
        let mut depth = 0;
        let group = rest.strip_prefix('{').map(|group| {
            let end = group.find(|c| {
                depth += i32::from(c == '{') - i32::from(c == '}');
                depth < 0
            });
            &group[..end.unwrap()]
        });
        let mut inner = 0;
        let parts = group.unwrap_or(rest).split(move |c| {
            inner += i32::from(c == '{') - i32::from(c == '}');
            inner == 0 && c == ','
        });
        let count = if group.is_some() { usize::MAX } else { 1 };
        parts.take(count).filter_map(move |part| part.trim().split(|c| !is_name(c)).next())
    })
}

/// The other modules that each module of a folder imports. A folder in it counts as one module.
fn imports(folder: &Path, prefixes: &[&str]) -> Imports {
    let mut imports = Imports::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let mut files = vec![path];
        while let Some(path) = files.pop() {
            if path.is_dir() {
                files.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = fs::read_to_string(path).unwrap();
                let code = text.split("#[cfg(test)]").next().unwrap().lines();
                let text: String = code.filter(|line| !line.trim().starts_with("//")).collect();
                let named = imports.entry(module.clone()).or_default();
                for prefix in prefixes {
                    named.extend(names(&text, prefix).filter(|other| *other != module).map(str::to_owned));
                }
            }
        }
    }
    let modules: BTreeSet<_> = imports.keys().cloned().collect();
    for named in imports.values_mut() {
        named.retain(|other| modules.contains(other));
    }
    imports
}

/// Takes away what imports nothing that is left, until nothing or a circle is left.
fn circle(mut imports: Imports) -> Imports {
    loop {
        let before = imports.len();
        let left: BTreeSet<_> = imports.keys().cloned().collect();
        imports.retain(|_, named| named.iter().any(|other| left.contains(other)));
        if imports.len() == before {
            return imports;
        }
    }
}

#[test]
fn modules_import_each_other_in_one_direction() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (folder, prefixes, module, imported) in [
        ("src", ["crate::", "redirect::"], "edge", "flags"),
        ("src/flags", ["super::", "crate::flags::"], "refresh", "snapshot"),
        ("crates/flag-data/src", ["crate::", "flag_data::"], "sources", "items"),
        ("crates/flag-data/src/sources", ["super::", "crate::sources::"], "collect", "error"),
        ("crates/flag-sync/src", ["crate::", "super::"], "writer", "comparison"),
        ("crates/preview/src", ["crate::", "super::"], "cloudfront", "distribution"),
        ("crates/standins/src", ["crate::", "super::"], "launchdarkly", "serve"),
    ] {
        let imports = imports(&root.join(folder), &prefixes);
        assert!(imports[module].contains(imported), "{folder}: {imports:?}");
        assert_eq!(circle(imports), Imports::new(), "{folder}: a circle");
    }
}

#[test]
fn imports_between_braces_are_seen() {
    let text = "use crate::{a::{self, x}, b};use crate::c::d; let e = crate::e::f();";
    assert_eq!(names(text, "crate::").collect::<Vec<_>>(), ["a", "b", "c", "e"]);
}
