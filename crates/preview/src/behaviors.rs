//! The distribution of `cloudformation/edge.yaml`, with the function attached: which request meets which function.
//!
//! What has an effect here is read; what has none without a network (certificates, caching, compression) is listed as
//! such; anything else is an error, so that the preview cannot quietly show something else than what is deployed.

use super::script::Script;
use super::template::{Template, TemplateError};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;

/// The template's parameters as `just deploy` gives them: with a package, so the function is attached.
const ATTACHED: [(&str, &str); 3] =
    [("PackageBucket", "preview"), ("PackageKey", "preview"), ("PackageSha256", "preview")];

/// Without effect on this machine: there is no certificate and no cache, and loopback needs no compression.
const NO_EFFECT_HERE: [&str; 11] = [
    "Aliases",
    "CachePolicyId",
    "Comment",
    "Compress",
    "Enabled",
    "HttpVersion",
    "IPV6Enabled",
    "PriceClass",
    "ViewerCertificate",
    "ViewerProtocolPolicy",
    "WebACLId",
];

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

/// What the distribution does with a request.
#[derive(Debug)]
pub(super) struct Distribution {
    /// What `/` stands for.
    pub default_root_object: Option<String>,
    /// In the order of the template.
    behaviors: Vec<Behavior>,
    default: Behavior,
    errors: Vec<ErrorPage>,
    /// How long Lambda lets the function take.
    pub function_timeout: Duration,
}

/// A cache behavior.
#[derive(Debug)]
pub(super) struct Behavior {
    /// The path pattern; `*` for the default behavior.
    pub pattern: String,
    pub methods: Vec<String>,
    pub on_viewer_request: OnViewerRequest,
    /// Put into every response that comes from the origin.
    pub headers: &'static [(&'static str, &'static str)],
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
    #[serde(rename = "ErrorCachingMinTTL")]
    _error_caching_min_ttl: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct DistributionConfig {
    origins: Vec<Origin>,
    default_root_object: Option<String>,
    default_cache_behavior: Value,
    #[serde(default)]
    cache_behaviors: Vec<Value>,
    #[serde(default)]
    custom_error_responses: Vec<ErrorPage>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Origin {
    id: String,
    #[serde(rename = "DomainName")]
    _domain_name: Value,
    #[serde(rename = "OriginAccessControlId")]
    _origin_access_control_id: Value,
    #[serde(rename = "S3OriginConfig")]
    _s3_origin_config: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct CacheBehavior {
    #[serde(default = "any_path")]
    path_pattern: String,
    target_origin_id: String,
    #[serde(default = "get_and_head")]
    allowed_methods: Vec<String>,
    response_headers_policy_id: Option<String>,
    #[serde(default)]
    lambda_function_associations: Vec<LambdaAssociation>,
    #[serde(default)]
    function_associations: Vec<ScriptAssociation>,
}

fn any_path() -> String {
    "*".to_owned()
}

fn get_and_head() -> Vec<String> {
    ["GET", "HEAD"].map(str::to_owned).to_vec()
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct LambdaAssociation {
    event_type: String,
    #[serde(rename = "LambdaFunctionARN")]
    function: Reference,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct ScriptAssociation {
    event_type: String,
    #[serde(rename = "FunctionARN")]
    function: Reference,
}

/// `!Ref Name`, or `!GetAtt Name.Attribute`.
#[derive(Debug, Deserialize)]
enum Reference {
    Ref(String),
    #[serde(rename = "Fn::GetAtt")]
    GetAtt((String, String)),
}

impl Distribution {
    /// Reads the template.
    pub(super) fn read(text: &str) -> Result<Self, TemplateError> {
        let template = Template::parse(text, &ATTACHED)?;
        let [name] = template.resources("AWS::CloudFront::Distribution").try_into().map_err(|names: Vec<_>| {
            TemplateError(format!("there are {} distributions; the preview shows one", names.len()))
        })?;
        let mut properties = template.properties(&name)?;
        let config = properties.get_mut("DistributionConfig").map(Value::take).unwrap_or_default();
        let config: DistributionConfig = known(&name, config)?;

        let behavior = |place: &str, value: Value| {
            let behavior: CacheBehavior = known(place, value)?;
            let place = format!("{place} ({})", behavior.path_pattern);
            if !config.origins.iter().any(|origin| origin.id == behavior.target_origin_id) {
                return Err(TemplateError(format!("{place}: there is no origin {:?}", behavior.target_origin_id)));
            }
            behavior.made(&template).map_err(|TemplateError(why)| TemplateError(format!("{place}: {why}")))
        };
        let behaviors = config.cache_behaviors.into_iter().enumerate();
        let behaviors = behaviors.map(|(index, value)| behavior(&format!("CacheBehaviors[{index}]"), value));
        Ok(Self {
            behaviors: behaviors.collect::<Result<_, _>>()?,
            default: behavior("DefaultCacheBehavior", config.default_cache_behavior)?,
            default_root_object: config.default_root_object,
            errors: config.custom_error_responses,
            function_timeout: function_timeout(&template)?,
        })
    }

    /// The behavior of a path: the first whose pattern matches, the default one otherwise.
    pub(super) fn behavior(&self, path: &str) -> &Behavior {
        let path = normalized(path);
        let matching = self.behaviors.iter().find(|behavior| matches(&behavior.pattern, &path));
        matching.unwrap_or(&self.default)
    }

    /// The page for an error of the origin.
    pub(super) fn error_page(&self, status: u16) -> Option<&ErrorPage> {
        self.errors.iter().find(|error| error.error_code == status)
    }
}

impl CacheBehavior {
    fn made(self, template: &Template<'_>) -> Result<Behavior, TemplateError> {
        let headers: &[_] = match self.response_headers_policy_id.as_deref() {
            None => &[],
            Some(SECURITY_HEADERS_POLICY) => &SECURITY_HEADERS,
            Some(other) => {
                return Err(TemplateError(format!("the preview does not know the ResponseHeadersPolicyId {other}")));
            }
        };
        let events = self.lambda_function_associations.iter().map(|association| &association.event_type);
        let events = events.chain(self.function_associations.iter().map(|association| &association.event_type));
        if let Some(other) = events.into_iter().find(|event| *event != "viewer-request") {
            return Err(TemplateError(format!("the preview does not know functions on {other}")));
        }
        let on_viewer_request = match (&*self.lambda_function_associations, &*self.function_associations) {
            ([], []) => OnViewerRequest::Nothing,
            ([LambdaAssociation { function: Reference::Ref(version), .. }], [])
                if template.kind(version) == Some("AWS::Lambda::Version") =>
            {
                OnViewerRequest::Function
            }
            ([], [ScriptAssociation { function: Reference::GetAtt((name, attribute)), .. }])
                if attribute == "FunctionARN" && template.kind(name) == Some("AWS::CloudFront::Function") =>
            {
                OnViewerRequest::Script(script(template, name)?)
            }
            // https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/edge-function-restrictions-all.html
            _ => {
                return Err(TemplateError(
                    "on viewer requests there can be one function: a version of the Lambda function, or a CloudFront \
                     Function of this template"
                        .to_owned(),
                ));
            }
        };
        Ok(Behavior { pattern: self.path_pattern, methods: self.allowed_methods, on_viewer_request, headers })
    }
}

/// Reads what has an effect here; another field is an error.
fn known<T: DeserializeOwned>(place: &str, mut value: Value) -> Result<T, TemplateError> {
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|field, _| !NO_EFFECT_HERE.contains(&field.as_str()));
    }
    serde_json::from_value(value).map_err(|error| TemplateError(format!("{place}: {error}")))
}

fn script(template: &Template<'_>, name: &str) -> Result<Script, TemplateError> {
    let properties = template.properties(name)?;
    let text = |pointer| properties.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    if text("/FunctionConfig/Runtime") != "cloudfront-js-2.0" {
        return Err(TemplateError(format!("{name}: the preview knows the runtime cloudfront-js-2.0 only")));
    }
    Script::new(name, text("/FunctionCode")).map_err(|error| TemplateError(error.to_string()))
}

fn function_timeout(template: &Template<'_>) -> Result<Duration, TemplateError> {
    let [name] = template.resources("AWS::Lambda::Function").try_into().map_err(|names: Vec<_>| {
        TemplateError(format!("there are {} Lambda functions; the preview runs one", names.len()))
    })?;
    let seconds = template.properties(&name)?.get("Timeout").and_then(Value::as_u64);
    seconds.map(Duration::from_secs).ok_or_else(|| TemplateError(format!("{name}: Timeout is no number of seconds")))
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

/// `*` is any number of characters, `?` exactly one; the slash at the beginning may be left out.
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
        let distribution = Distribution::read(EDGE).unwrap();
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
    fn the_template_is_read_to_the_end() {
        let distribution = Distribution::read(EDGE).unwrap();
        assert_eq!(distribution.default_root_object, None);
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
        assert_ne!(text, EDGE, "{from:?} is not in the template");
        let error = Distribution::read(&text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn what_the_preview_does_not_know_is_an_error() {
        check_refused(
            "- PathPattern: /site/\n",
            "- RealtimeLogConfigArn: x\n            PathPattern: /site/\n",
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
