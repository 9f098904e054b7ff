//! The rule of the house that the compiler does not check: imports between modules point one way.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

type Imports = BTreeMap<String, BTreeSet<String>>;

/// Which modules each module of a folder names, by its path after `root`. A folder counts as one module.
fn imports(folder: &Path, root: &str) -> Imports {
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
                let text: String = text.lines().filter(|line| !line.trim().starts_with("//")).collect();
                let named =
                    text.split(root).skip(1).map(|rest| rest.split(|c: char| !(c.is_alphanumeric() || c == '_')));
                let named = named.filter_map(|mut rest| rest.next().map(str::to_owned));
                imports.entry(module.clone()).or_default().extend(named.filter(|other| *other != module));
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
    for (folder, prefix, module, imported) in [
        ("src", "crate::", "edge", "flags"),
        ("src/flags", "super::", "refresh", "snapshot"),
        ("crates/flag-data/src", "crate::", "sources", "items"),
        ("crates/flag-sync/src", "crate::", "writer", "comparison"),
        ("crates/preview/src", "super::", "cloudfront", "distribution"),
        ("crates/standins/src", "super::", "launchdarkly", "serve"),
    ] {
        let imports = imports(&root.join(folder), prefix);
        assert!(imports[module].contains(imported), "{folder}: {imports:?}");
        assert_eq!(circle(imports), Imports::new(), "{folder}: a circle");
    }
}
