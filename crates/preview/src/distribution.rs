//! The distribution of `cloudformation/edge.yaml`, with the function attached: which request runs which function.
//!
//! A field that the preview does not know is an error, so that it cannot quietly differ from what is deployed.

use super::template;
use anyhow::{Context, Result, ensure};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;
use wildmatch::WildMatch;

/// What the distribution does with a request.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Distribution {
    /// In the order of the template.
    cache_behaviors: Vec<Behavior>,
    default_cache_behavior: Behavior,
    custom_error_responses: Vec<ErrorPage>,
    /// What `/` stands for, if it does not stand for itself.
    pub default_root_object: Option<String>,
    /// Only one, so the preview can ignore `TargetOriginId`.
    #[serde(rename = "Origins")]
    _origins: [IgnoredAny; 1],
    /// The code of the CloudFront Function.
    #[serde(skip)]
    pub script: String,
    /// How long an invocation of the redirect function may take.
    #[serde(skip)]
    pub function_timeout: Duration,
}

/// A cache behavior.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Behavior {
    #[serde(default = "any_path")]
    pub path_pattern: String,
    pub allowed_methods: Vec<String>,
    #[serde(rename = "FunctionAssociations", alias = "LambdaFunctionAssociations")]
    function: Option<[Association; 1]>,
    #[serde(rename = "ResponseHeadersPolicyId")]
    _headers: HeadersPolicy,
}

/// The default behavior has no pattern.
fn any_path() -> String {
    "*".to_owned()
}

#[derive(Debug, Deserialize)]
#[serde(tag = "EventType", rename_all = "kebab-case", deny_unknown_fields)]
enum Association {
    ViewerRequest {
        #[serde(rename = "FunctionARN", alias = "LambdaFunctionARN")]
        function: Handler,
    },
}

/// What runs on a viewer request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all(serialize = "snake_case"))]
pub(super) enum Handler {
    /// The redirect function.
    #[serde(rename(deserialize = "FunctionVersion"))]
    Function,
    /// The CloudFront Function.
    #[serde(rename(deserialize = "CurrentSite.FunctionARN"))]
    Script,
    #[serde(skip_deserializing)]
    Nothing,
}

#[derive(Debug, Deserialize)]
enum HeadersPolicy {
    /// AWS's managed policy `SecurityHeadersPolicy`.
    #[serde(rename = "67f7725c-6f97-4210-82d7-5512b31e9d03")]
    Security,
}

/// What a viewer gets instead of an error of the origin.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct ErrorPage {
    error_code: u16,
    pub response_code: u16,
    pub response_page_path: String,
}

impl Distribution {
    /// Reads the template, with the paths of the two sites.
    pub(super) fn read(text: &str, current_path: &str, beta_path: &str) -> Result<Self> {
        let template = template::resolved(text, current_path, beta_path)?;
        let runtime: String = part(&template, "/Resources/CurrentSite/Properties/FunctionConfig/Runtime")?;
        ensure!(runtime == "cloudfront-js-2.0", "the preview runs cloudfront-js-2.0, not {runtime}");
        Ok(Self {
            script: part(&template, "/Resources/CurrentSite/Properties/FunctionCode")?,
            function_timeout: Duration::from_secs(part(&template, "/Resources/Function/Properties/Timeout")?),
            ..part(&template, "/Resources/Distribution/Properties/DistributionConfig")?
        })
    }

    /// The behavior of a path: the first whose pattern matches, or the default one.
    pub(super) fn behavior(&self, path: &str) -> &Behavior {
        let path = normalized(path);
        let matching = self.cache_behaviors.iter().find(|behavior| matches(&behavior.path_pattern, &path));
        matching.unwrap_or(&self.default_cache_behavior)
    }

    /// The page for an error of the origin.
    pub(super) fn error_page(&self, status: u16) -> Option<&ErrorPage> {
        self.custom_error_responses.iter().find(|error| error.error_code == status)
    }
}

impl Behavior {
    pub(super) fn handler(&self) -> Handler {
        let function = self.function.as_ref();
        function.map_or(Handler::Nothing, |[Association::ViewerRequest { function }]| *function)
    }
}

/// Reads a part of the template. The error names the place that the preview does not know.
fn part<T: DeserializeOwned>(template: &Value, pointer: &str) -> Result<T> {
    let value = template.pointer(pointer).unwrap_or(&Value::Null);
    serde_path_to_error::deserialize(value).with_context(|| pointer.to_owned())
}

/// The path as CloudFront matches it: without empty and dot segments. Functions and the origin get it as it was sent.
/// <https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/DownloadDistValuesCacheBehavior.html#DownloadDistValuesPathPattern>
fn normalized(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            _ => segments.push(segment),
        }
    }
    let is_directory = matches!(path.rsplit('/').next(), Some("" | "." | ".."));
    let end = if is_directory && !segments.is_empty() { "/" } else { "" };
    format!("/{}{end}", segments.join("/"))
}

/// `*` is any number of characters, `?` exactly one; the leading slash of a pattern is optional.
fn matches(pattern: &str, path: &str) -> bool {
    WildMatch::new(&format!("/{}", pattern.trim_start_matches('/'))).matches(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Handler::{Function, Nothing, Script};

    const EDGE: &str = include_str!("../../../cloudformation/edge.yaml");

    #[track_caller]
    fn check_paths((current, beta): (&str, &str), expected: Handler, paths: &[&str]) {
        let distribution = Distribution::read(EDGE, current, beta).unwrap();
        for path in paths {
            assert_eq!(distribution.behavior(path).handler(), expected, "{path}");
        }
    }

    #[test]
    fn the_template_attaches_the_function_where_the_decision_needs_it() {
        let sites = ("/site", "/site/beta");
        check_paths(sites, Function, &["/", "/about.html", "/sitemap.xml", "/favicon.ico"]);
        check_paths(sites, Function, &["/site", "/site/", "/site-map/x", "/site/beta", "/site/beta/"]);
        check_paths(sites, Function, &["/site/beta/index.html", "/site/beta/a/b", "/site/beta/../../x"]);
        check_paths(sites, Script, &["/site/a/", "/site/a/b.c/", "/site/a/."]);
        check_paths(sites, Nothing, &["/site/index.html", "/site/beta.html", "/site//a"]);
        check_paths(sites, Nothing, &["/site/beta/logo.svg", "/site/beta/a/style.css"]);
        let sites = ("/shop", "/next");
        check_paths(sites, Function, &["/next/a.html", "/site/a.html"]);
        check_paths(sites, Script, &["/shop/a/"]);
        let sites = ("/", "/beta");
        check_paths(sites, Function, &["/", "/about", "/a/b.html", "/v1.2/docs", "/beta", "/beta/", "/beta/a.html"]);
        check_paths(sites, Nothing, &["/logo.svg", "/a/b.css", "/.well-known/x", "/beta/logo.svg"]);
    }

    #[test]
    fn the_template_is_read_to_the_end() {
        for (current, root_object, error_page) in
            [("/site", None, "/site/404.html"), ("/", Some("index.html"), "/404.html")]
        {
            let distribution = Distribution::read(EDGE, current, "/site/beta").unwrap();
            assert_eq!(distribution.default_root_object.as_deref(), root_object);
            let page = distribution.error_page(403).unwrap();
            assert_eq!((page.response_code, page.response_page_path.as_str()), (404, error_page));
            assert!(distribution.error_page(500).is_none());
            assert_eq!(distribution.function_timeout, Duration::from_secs(5));
        }
    }

    /// Changes the template; the error has `expected`.
    #[track_caller]
    fn check_refused(from: &str, to: &str, expected: &str) {
        let text = EDGE.replacen(from, to, 1);
        assert!(text != EDGE, "{from:?} is not in the template");
        let error = Distribution::read(&text, "/site", "/site/beta").unwrap_err();
        assert!(format!("{error:#}").contains(expected), "{error:#}");
    }

    #[test]
    fn what_the_preview_does_not_know_is_an_error() {
        let association = "EventType: viewer-request";
        check_refused(association, "EventType: origin-request", "unknown variant `origin-request`");
        check_refused(association, "EventType: viewer-request, IncludeBody: true", "unknown field `IncludeBody`");
        check_refused("LambdaFunctionARN: !Ref FunctionVersion", "LambdaFunctionARN: !Ref Function", "`Function`");
        check_refused("- PathPattern: !Ref B", "- Odd: x\n            PathPattern: !Ref B", "unknown field `Odd`");
        check_refused("PathPattern: !Ref BetaPath", "PathPattern: !Join [a, b]", "CacheBehaviors[1].PathPattern");
        check_refused("PathPattern: !Ref BetaPath", "PathPattern: !Sub ${Other}", "CacheBehaviors[1].PathPattern");
        check_refused("DefaultRootObject: !If [AtRoot", "DefaultRootObject: !If [Other", "DefaultRootObject");
        check_refused("Enabled: true", "Enabled: true\n        OriginGroups: {}", "unknown field `OriginGroups`");
        check_refused("- Id: site", "- Id: other\n          - Id: site", "Origins: invalid length 2");
        check_refused("Runtime: cloudfront-js-2.0", "Runtime: cloudfront-js-1.0", "not cloudfront-js-1.0");
        check_refused("ResponseHeadersPolicyId: 67f", "ResponseHeadersPolicyId: 68f", "68f7725c");
        check_refused("  CurrentSite:", "  Other:", "/Resources/CurrentSite/");
    }

    #[test]
    fn patterns_match_as_cloudfront_does() {
        for (pattern, path, expected) in [
            ("/site/*", "/site", false),
            ("/site/*", "/site/", true),
            ("/site/*", "/site/a/b", true),
            ("site/*", "/site/a", true),
            ("/site/*", "/Site/a", false),
            ("*", "/", true),
            ("/a?c", "/abc", true),
            ("/a?c", "/ac", false),
            ("*.jpg", "/a/b.jpg", true),
            ("*.jpg", "/a/b.jpeg", false),
            ("/a/*", "/a/../b", false),
            ("/a/", "/a/b/..", true),
            ("/a/b", "//a//b", true),
            ("/a/*.*", "/a/b.c/d", true),
        ] {
            assert_eq!(matches(pattern, &normalized(path)), expected, "{pattern} on {path}");
        }
    }
}
