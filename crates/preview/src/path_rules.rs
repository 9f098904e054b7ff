//! Path rules stand in two places: in the function, and in the CloudFront Function of edge.yaml, which stands in while the
//! function is not attached. Both must lead a viewer of the current site to the same place.

use crate::script::Script;
use redirect::redirect::{Paths, Signals, Verdict, Visit};
use serde_json::{Value, json};
use std::fs;

const EDGE: &str = include_str!("../../../cloudformation/edge.yaml");

fn current_site() -> Script {
    let (_, code) = EDGE.split_once("FunctionCode: |\n").unwrap();
    let indented = code.lines().take_while(|line| line.is_empty() || line.starts_with("        "));
    Script::new("CurrentSite", &indented.collect::<Vec<_>>().join("\n")).unwrap()
}

/// `302 /site/a`, or the path that is served.
fn by_script(script: &Script, method: &str, path: &str, query: &str) -> String {
    let event = json!({"request": {"method": method, "uri": path, "querystring": {}, "headers": {}}});
    let answer: Value = script.run(&event, query).unwrap();
    match answer.get("statusCode") {
        Some(status) => format!("{status} {}", answer["headers"]["location"]["value"].as_str().unwrap()),
        None => answer["uri"].as_str().unwrap().to_owned(),
    }
}

fn by_function(method: &str, path: &str, query: &str) -> String {
    let paths = Paths::new("/site", "/site/beta");
    let visit = Visit::new(&paths, Some(method), Some(path), Some(query), Signals::default());
    match visit.answer(Verdict::Current) {
        Some(redirect) => format!("{} {}", redirect.status, redirect.location),
        // What the function lets pass below the current site runs the CloudFront Function, which names index pages.
        None if path.ends_with('/') => format!("{path}index.html"),
        None => path.to_owned(),
    }
}

#[test]
fn the_cloudfront_function_and_the_function_lead_a_viewer_of_the_current_site_to_the_same_place() {
    let script = current_site();
    let segments =
        ["a", "b.html", "site", "sitemap.xml", "betamax", "x.HTM", "v1.2", "logo.svg", "~u", "a%20b", "beta.html"];
    let mut paths = Vec::new();
    for first in segments {
        for prefix in ["", "/site", "/site/beta", "/site/beta/site"] {
            paths.push(format!("{prefix}/{first}"));
            paths.push(format!("{prefix}/{first}/"));
            paths.extend(segments.map(|second| format!("{prefix}/{first}/{second}")));
        }
    }
    paths.extend(["/", "/site", "/site/", "/site/beta", "/site/beta/", "/site-map"].map(str::to_owned));
    let events = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../events")).unwrap();
    for event in
        events.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|end| end == "json"))
    {
        let event: Value = serde_json::from_str(&fs::read_to_string(event).unwrap()).unwrap();
        let uri = event["Records"][0]["cf"]["request"]["uri"].as_str().unwrap_or_default();
        // CloudFront normalizes nothing, and the CloudFront Function neither: only the function resolves dot segments.
        if uri.starts_with('/') && uri.is_ascii() && !uri.contains("..") && !uri.contains(['\r', '\n']) {
            paths.push(uri.to_owned());
        }
    }
    assert!(paths.len() > 500, "{}", paths.len());
    for path in &paths {
        for (method, query) in [("GET", ""), ("HEAD", "a=b&c=%20"), ("POST", "")] {
            let (script, function) = (by_script(&script, method, path, query), by_function(method, path, query));
            assert_eq!(script, function, "{method} {path}?{query}");
        }
    }
}
