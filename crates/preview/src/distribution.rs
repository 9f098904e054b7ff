//! The distribution of `cloudformation/edge.yaml`, with the function attached: which request runs which function.
//!
//! A field that the preview does not know is an error, so that it cannot quietly differ from what is deployed.

use super::script::Script;
use super::template::{Template, TemplateError};
use serde::Deserialize;
use std::time::Duration;

/// AWS's managed policy `SecurityHeadersPolicy`.
/// <https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/using-managed-response-headers-policies.html>
const SECURITY_HEADERS_POLICY: &str = "67f7725c-6f97-4210-82d7-5512b31e9d03";
const SECURITY_HEADERS: [(&str, &str); 5] = [
    ("referrer-policy", "strict-origin-when-cross-origin"),
    ("strict-transport-security", "max-age=31536000"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "SAMEORIGIN"),
    ("x-xss-protection", "1; mode=block"),
];

/// Response headers, by name.
pub(super) type Headers = &'static [(&'static str, &'static str)];

/// What the distribution does with a request.
#[derive(Debug)]
pub(super) struct Distribution {
    /// In the order of the template.
    behaviors: Vec<Behavior>,
    default: Behavior,
    errors: Vec<ErrorPage>,
    /// What `/` stands for, if it does not stand for itself.
    pub default_root_object: Option<String>,
    /// How long an invocation of the function may take.
    pub function_timeout: Duration,
}

/// A cache behavior.
#[derive(Debug)]
pub(super) struct Behavior {
    /// The path pattern; `*` for the default behavior.
    pub pattern: String,
    pub methods: Vec<String>,
    pub on_viewer_request: OnViewerRequest,
    /// Set on every response from the origin.
    pub headers: Headers,
}

/// What runs on a viewer request.
#[derive(Debug)]
pub(super) enum OnViewerRequest {
    Nothing,
    /// The redirect function.
    Function,
    /// A CloudFront Function.
    Script(Script),
}

/// What a viewer gets instead of an error of the origin.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct ErrorPage {
    error_code: u16,
    pub response_code: u16,
    pub response_page_path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct DistributionConfig {
    origins: Vec<Bucket>,
    default_cache_behavior: CacheBehavior,
    cache_behaviors: Vec<CacheBehavior>,
    custom_error_responses: Vec<ErrorPage>,
    default_root_object: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Bucket {
    id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct CacheBehavior {
    path_pattern: Option<String>,
    target_origin_id: String,
    allowed_methods: Vec<String>,
    response_headers_policy_id: Option<String>,
    #[serde(default)]
    lambda_function_associations: Vec<Association>,
    #[serde(default)]
    function_associations: Vec<Association>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Association {
    event_type: String,
    #[serde(rename = "FunctionARN", alias = "LambdaFunctionARN")]
    function: String,
}

impl Distribution {
    /// Reads the template, with the paths of the two sites.
    pub(super) fn read(text: &str, current_path: &str, beta_path: &str) -> Result<Self, TemplateError> {
        let template = Template::parse(text, current_path, beta_path)?;
        let name = template.only("AWS::CloudFront::Distribution")?;
        let config = template.resolved(template.at(&["Resources", name, "Properties", "DistributionConfig"])?)?;
        let config: DistributionConfig = serde_json::from_value(config.unwrap_or_default())
            .map_err(|error| TemplateError(format!("{name}: {error}")))?;
        let behavior = |behavior: CacheBehavior| {
            let pattern = behavior.path_pattern.clone().unwrap_or_else(|| "*".to_owned());
            let read = behavior.read(&pattern, &config.origins, &template);
            read.map_err(|TemplateError(why)| TemplateError(format!("cache behavior {pattern}: {why}")))
        };
        let function = template.only("AWS::Lambda::Function")?;
        let timeout = template.at(&["Resources", function, "Properties", "Timeout"])?.as_integer();
        let timeout = timeout.and_then(|seconds| u64::try_from(seconds).ok());
        Ok(Self {
            behaviors: config.cache_behaviors.into_iter().map(behavior).collect::<Result<_, _>>()?,
            default: behavior(config.default_cache_behavior)?,
            errors: config.custom_error_responses,
            default_root_object: config.default_root_object,
            function_timeout: timeout
                .map(Duration::from_secs)
                .ok_or_else(|| TemplateError(format!("{function}: the Timeout is not a number of seconds")))?,
        })
    }

    /// The behavior of a path: the first whose pattern matches, or the default one.
    pub(super) fn behavior(&self, path: &str) -> &Behavior {
        let path = normalized(path);
        self.behaviors.iter().find(|behavior| matches(&behavior.pattern, &path)).unwrap_or(&self.default)
    }

    /// The page for an error of the origin.
    pub(super) fn error_page(&self, status: u16) -> Option<&ErrorPage> {
        self.errors.iter().find(|error| error.error_code == status)
    }
}

impl CacheBehavior {
    fn read(self, pattern: &str, origins: &[Bucket], template: &Template<'_>) -> Result<Behavior, TemplateError> {
        let invalid = |why: String| Err(TemplateError(why));
        if !origins.iter().any(|origin| origin.id == self.target_origin_id) {
            return invalid(format!("there is no origin {:?}", self.target_origin_id));
        }
        let headers: Headers = match self.response_headers_policy_id.as_deref() {
            None => &[],
            Some(SECURITY_HEADERS_POLICY) => &SECURITY_HEADERS,
            Some(other) => return invalid(format!("the preview does not know the ResponseHeadersPolicyId {other}")),
        };
        let mut associations = self.lambda_function_associations.iter().chain(&self.function_associations);
        if let Some(other) = associations.find(|association| association.event_type != "viewer-request") {
            return invalid(format!("the preview does not know functions on {}", other.event_type));
        }
        let on_viewer_request = match (&*self.lambda_function_associations, &*self.function_associations) {
            ([], []) => OnViewerRequest::Nothing,
            ([lambda], []) if template.kind(&lambda.function) == Some("AWS::Lambda::Version") => {
                OnViewerRequest::Function
            }
            ([], [association]) if association.function.ends_with(".FunctionARN") => {
                OnViewerRequest::Script(script(template)?)
            }
            // https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/edge-function-restrictions-all.html
            _ => {
                return invalid(
                    "on viewer requests there can be one function: a version of the Lambda function, or \
                                 the CloudFront Function"
                        .to_owned(),
                );
            }
        };
        Ok(Behavior { pattern: pattern.to_owned(), methods: self.allowed_methods, on_viewer_request, headers })
    }
}

/// The CloudFront Function of the template.
fn script(template: &Template<'_>) -> Result<Script, TemplateError> {
    let name = template.only("AWS::CloudFront::Function")?;
    let runtime = template.at(&["Resources", name, "Properties", "FunctionConfig", "Runtime"])?;
    if runtime.as_str() != Some("cloudfront-js-2.0") {
        return Err(TemplateError(format!("{name}: the preview knows the runtime cloudfront-js-2.0 only")));
    }
    let code = template.resolved(template.at(&["Resources", name, "Properties", "FunctionCode"])?)?.unwrap_or_default();
    Script::new(name, code.as_str().unwrap_or_default()).map_err(|error| TemplateError(error.to_string()))
}

/// The path as CloudFront matches it: without empty and dot segments. What goes on to functions and the origin is the
/// path as it came.
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

/// `*` is any number of characters, `?` exactly one; the leading slash is optional.
fn matches(pattern: &str, path: &str) -> bool {
    fn from(pattern: &[u8], path: &[u8]) -> bool {
        match (pattern.split_first(), path.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => (0..=path.len()).any(|taken| from(rest, path.get(taken..).unwrap_or_default())),
            (Some((wanted, pattern)), Some((found, path))) => {
                (*wanted == b'?' || wanted == found) && from(pattern, path)
            }
            _ => false,
        }
    }
    let pattern = pattern.strip_prefix('/').unwrap_or(pattern);
    from(pattern.as_bytes(), path.strip_prefix('/').unwrap_or(path).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EDGE: &str = include_str!("../../../cloudformation/edge.yaml");

    #[track_caller]
    fn check_edge(path: &str, expected: &str) {
        check_paths("/site", "/site/beta", path, expected);
    }

    #[track_caller]
    fn check_paths(current: &str, beta: &str, path: &str, expected: &str) {
        let distribution = Distribution::read(EDGE, current, beta).unwrap();
        let found = match &distribution.behavior(path).on_viewer_request {
            OnViewerRequest::Nothing => "nothing",
            OnViewerRequest::Function => "function",
            OnViewerRequest::Script(_) => "script",
        };
        assert_eq!(found, expected, "{path}");
    }

    #[test]
    fn the_template_attaches_the_function_where_the_decision_needs_it() {
        for path in ["/", "/about.html", "/sitemap.xml", "/favicon.ico", "/site", "/site/", "/site-map/x"] {
            check_edge(path, "function");
        }
        for path in ["/site/beta", "/site/beta/", "/site/beta/index.html", "/site/beta/a/b", "/site/beta/../../x"] {
            check_edge(path, "function");
        }
        for path in ["/site/a/", "/site/a/b.c/", "/site/a/."] {
            check_edge(path, "script");
        }
        for path in ["/site/index.html", "/site/beta.html", "/site//a", "/site/beta/logo.svg", "/site/beta/a/style.css"]
        {
            check_edge(path, "nothing");
        }
    }

    #[test]
    fn the_template_follows_the_paths() {
        check_paths("/shop", "/next", "/next/a.html", "function");
        check_paths("/shop", "/next", "/shop/a/", "script");
        check_paths("/shop", "/next", "/site/a.html", "function");
        for path in ["/", "/about", "/a/b.html", "/v1.2/docs", "/beta", "/beta/", "/beta/a.html"] {
            check_paths("/", "/beta", path, "function");
        }
        for path in ["/logo.svg", "/a/b.css", "/.well-known/x", "/beta/logo.svg"] {
            check_paths("/", "/beta", path, "nothing");
        }
        let root = Distribution::read(EDGE, "/", "/beta").unwrap();
        assert_eq!(root.default_root_object.as_deref(), Some("index.html"));
        assert_eq!(root.error_page(403).unwrap().response_page_path, "/404.html");
    }

    #[test]
    fn the_template_is_read_to_the_end() {
        let distribution = Distribution::read(EDGE, "/site", "/site/beta").unwrap();
        assert_eq!(distribution.function_timeout, Duration::from_secs(5));
        let page = distribution.error_page(403).unwrap();
        assert_eq!((page.response_code, page.response_page_path.as_str()), (404, "/site/404.html"));
        assert!(distribution.error_page(500).is_none());
        assert!(distribution.behavior("/x").methods.contains(&"POST".to_owned()));
        assert!(!distribution.behavior("/site/x").methods.contains(&"POST".to_owned()));
    }

    /// Changes the template and names what the error must say.
    #[track_caller]
    fn check_refused(from: &str, to: &str, expected: &str) {
        let text = EDGE.replacen(from, to, 1);
        assert!(text != EDGE, "{from:?} is not in the template");
        let error = Distribution::read(&text, "/site", "/site/beta").unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn what_the_preview_does_not_know_is_an_error() {
        check_refused(
            "- PathPattern: !Ref BetaPath\n",
            "- RealtimeLogConfigArn: x\n            PathPattern: !Ref BetaPath\n",
            "RealtimeLogConfigArn",
        );
        check_refused("EventType: viewer-request", "EventType: origin-request", "functions on origin-request");
        check_refused(
            "{EventType: viewer-request, L",
            "{EventType: viewer-request, IncludeBody: true, L",
            "IncludeBody",
        );
        check_refused("Enabled: true", "Enabled: true\n        OriginGroups: {}", "OriginGroups");
        check_refused("TargetOriginId: site", "TargetOriginId: other", "there is no origin \"other\"");
        check_refused("LambdaFunctionARN: !Ref FunctionVersion", "LambdaFunctionARN: !Ref Function", "one function");
        check_refused("Runtime: cloudfront-js-2.0", "Runtime: cloudfront-js-1.0", "cloudfront-js-2.0 only");
        check_refused("ResponseHeadersPolicyId: 67f", "ResponseHeadersPolicyId: 68f", "68f7725c");
    }

    #[track_caller]
    fn check_match(pattern: &str, path: &str, expected: bool) {
        assert_eq!(matches(pattern, &normalized(path)), expected, "{pattern} on {path}");
    }

    #[test]
    fn patterns_match_as_cloudfront_does() {
        check_match("/site/*", "/site", false);
        check_match("/site/*", "/site/", true);
        check_match("/site/*", "/site/a/b", true);
        check_match("site/*", "/site/a", true);
        check_match("/site/*", "/Site/a", false);
        check_match("*", "/", true);
        check_match("/a?c", "/abc", true);
        check_match("/a?c", "/ac", false);
        check_match("*.jpg", "/a/b.jpg", true);
        check_match("*.jpg", "/a/b.jpeg", false);
        check_match("/a/*", "/a/../b", false);
        check_match("/a/", "/a/b/..", true);
        check_match("/a/b", "//a//b", true);
        check_match("/a/*.*", "/a/b.c/d", true);
    }
}
