//! Path rules stand in two places: in the function, and in the CloudFront Function of edge.yaml, which stands in while the
//! function is not attached. Both must lead a viewer of the current site to the same place.

use crate::distribution::Distribution;
use crate::script;
use redirect::redirect::{Paths, Signals, Verdict, Visit};
use serde_json::{Value, json};
use std::fs;

const EDGE: &str = include_str!("../../../cloudformation/edge.yaml");

/// `302 /site/a`, or the path that is served.
fn by_script(code: &str, method: &str, path: &str, query: &str) -> String {
    let event = json!({"request": {"method": method, "uri": path, "querystring": {}, "headers": {}}});
    let answer = script::run(code, &event, query).unwrap();
    match answer.get("statusCode") {
        Some(status) => format!("{status} {}", answer["headers"]["location"]["value"].as_str().unwrap()),
        None => answer["uri"].as_str().unwrap().to_owned(),
    }
}

fn by_function(paths: &Paths, method: &str, path: &str, query: &str) -> String {
    let visit = Visit::new(paths, Some(method), Some(path), Some(query), Signals::default());
    match visit.answer(Verdict::Current) {
        Some(redirect) => format!("{} {}", redirect.status, redirect.location),
        // What the function lets pass below the current site runs the CloudFront Function, which names index pages.
        None if path.ends_with('/') && !paths.is_root() => format!("{path}index.html"),
        None => path.to_owned(),
    }
}

/// Compares both on every path of these segments below the prefixes that matter; returns how many paths there were.
#[track_caller]
fn check_paths(sites: (&str, &str)) -> usize {
    let (current, beta) = sites;
    let code = Distribution::read(EDGE, current, beta).unwrap().script;
    let rules = Paths::new(current, beta);
    let current = current.trim_end_matches('/');
    let below_beta = beta.rsplit('/').next().unwrap();
    let segments = ["a", "site", "x.HTM", "v1.2", "logo.svg", "a%20b", "beta.html", "beta", below_beta, ""];
    let inside = [String::new(), current.to_owned(), beta.to_owned(), format!("{beta}/site"), format!("{beta}{beta}")];
    let mut paths = Vec::new();
    for first in segments {
        for prefix in &inside {
            paths.push(format!("{prefix}/{first}"));
            paths.push(format!("{prefix}/{first}/"));
            paths.extend(segments.map(|second| format!("{prefix}/{first}/{second}")));
        }
    }
    paths.extend(["/", "/site-map", "//", "/\\example.com"].map(str::to_owned));
    for home in [current, beta].into_iter().filter(|home| !home.is_empty()) {
        paths.extend([home.to_owned(), format!("{home}/"), format!("{home}x/a"), format!("{home}/\\example.com/")]);
    }
    for file in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../events")).unwrap() {
        let event = fs::read_to_string(file.unwrap().path()).unwrap();
        let event: Value = serde_json::from_str(&event).unwrap_or_default();
        let uri = event["Records"][0]["cf"]["request"]["uri"].as_str().unwrap_or_default();
        // CloudFront normalizes nothing, and the CloudFront Function neither: only the function resolves dot segments.
        if uri.starts_with('/') && uri.is_ascii() && !uri.contains("..") && !uri.contains(['\r', '\n']) {
            paths.push(uri.to_owned());
        }
    }
    for (number, path) in paths.iter().enumerate() {
        let (method, query) = [("GET", ""), ("HEAD", "a=b&c=%20"), ("GET", "d"), ("POST", "")][number % 4];
        let (script, function) = (by_script(&code, method, path, query), by_function(&rules, method, path, query));
        assert_eq!(script, function, "{method} {path}?{query} with {sites:?}");
    }
    paths.len()
}

#[test]
fn the_cloudfront_function_and_the_function_lead_a_viewer_of_the_current_site_to_the_same_place() {
    for sites in [
        ("/site", "/site/beta"),
        ("/site", "/new"),
        ("/a/b", "/a/b/c/d"),
        ("/v1.2", "/v2.0"),
        ("/", "/beta"),
        ("/", "/next/beta"),
    ] {
        assert!(check_paths(sites) > 500, "{sites:?}");
    }
}
