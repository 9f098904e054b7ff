//! CloudFront, as far as a viewer sees it: the cache behavior, the function, the origin, the error page.

use super::distribution::{Behavior, Distribution, Handler};
use super::environment::Environment;
use super::journal::Journal;
use super::rules::{self, Effect, MAX_URL_LENGTH};
use super::script;
use super::viewer::{Viewer, cookie, split};
use anyhow::{Error, anyhow};
use axum::body::Body;
use axum::response::{Html, IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION, SET_COOKIE};
use http::request::Parts;
use http::{HeaderMap, Request, StatusCode};
use redirect::preview_token::PreviewToken;
use redirect::settings::Settings;
use serde_json::json;
use std::net::IpAddr;
use std::time::{Duration, Instant};
use tower::ServiceExt;
use tower_http::services::ServeDir;

/// The private bucket: a folder with both sites, laid out as `just deploy` uploads it.
const ORIGIN: &str = "site";

/// What the managed policy `SecurityHeadersPolicy` adds.
/// <https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/using-managed-response-headers-policies.html>
const SECURITY_HEADERS: [(&str, &str); 5] = [
    ("referrer-policy", "strict-origin-when-cross-origin"),
    ("strict-transport-security", "max-age=31536000"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "SAMEORIGIN"),
    ("x-xss-protection", "1; mode=block"),
];

const ERROR_PAGE: &str = include_str!("page/error.html");

const S3_ACCESS_DENIED: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";

/// A distribution that serves.
pub(super) struct CloudFront {
    pub distribution: Distribution,
    pub environment: Environment,
    /// Those of the function.
    pub settings: Settings,
    /// The token of preview links.
    pub token: Option<PreviewToken>,
    pub journal: Journal,
}

/// CloudFront's own error: its status, the part that failed, and the reason that only CloudFront's logs would have.
type Refusal = (StatusCode, &'static str, Error);

impl CloudFront {
    /// Answers a viewer's request. No function here reads the body of a request, nor does S3.
    pub(super) async fn answer(&self, request: &Parts, peer: IpAddr) -> Response {
        let begun = Instant::now();
        let mut viewer = Viewer::new(request, peer);
        if let ("/", Some(object)) = (viewer.uri.as_str(), &self.distribution.default_root_object) {
            viewer.uri = format!("/{object}");
        }
        let behavior = self.distribution.behavior(&viewer.uri);
        let (handler, (effect, start)) = match check(&viewer, behavior) {
            Ok(handler) => (handler, self.run(handler, &viewer).await),
            Err(refusal) => (Handler::Nothing, (Err(refusal), None)),
        };
        let (response, problem) = match effect {
            Ok(Effect::Continue { uri }) => (self.fetch(&viewer, &uri).await, None),
            Ok(Effect::Respond(response)) => {
                let is_script = handler == Handler::Script;
                let origin = if is_script { "FunctionGeneratedResponse" } else { "LambdaGeneratedResponse" };
                (from(origin, response), None)
            }
            Err((status, origin, problem)) => {
                let problem = format!("{problem:#}");
                let escaped = problem.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
                let page = ERROR_PAGE.replace("{title}", &status.to_string()).replace("{problem}", &escaped);
                (from(origin, (status, Html(page))), Some(problem))
            }
        };
        let headers = |name| response.headers().get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        // A token that is repeated, or under another name, is left in the address.
        let shown = |text: &str| match &self.token {
            Some(token) => text.replace(token.reveal(), "TOKEN"),
            None => text.to_owned(),
        };
        let served = json!({
            "viewer": viewer.address,
            "visitor": cookie(&viewer.headers, &self.settings.visitor_cookie),
            "method": viewer.method,
            "url": shown(&request.uri.to_string()),
            "behavior": behavior.path_pattern,
            "handler": handler,
            "status": response.status().as_u16(),
            "location": headers(LOCATION).next().map(shown),
            "sets_cookies": headers(SET_COOKIE).map(|cookie| split(cookie).0).collect::<Vec<_>>(),
            "problem": problem.as_deref().map(shown),
            "took_us": begun.elapsed().as_micros(),
            // The part of a cold start, up to the request for the first event.
            "start_us": start.map(|start| start.as_micros()),
        });
        self.journal.add(&viewer.id, "served", &served);
        ([("x-amz-cf-id", viewer.id)], response).into_response()
    }

    /// Runs the function of a behavior. Also returns how long a cold start took.
    async fn run(&self, handler: Handler, viewer: &Viewer) -> (Result<Effect, Refusal>, Option<Duration>) {
        match handler {
            Handler::Nothing => (Ok(Effect::Continue { uri: viewer.uri.clone() }), None),
            Handler::Script => {
                let answer = script::run(&self.distribution.script, &viewer.script_event(), &viewer.query);
                let answer = answer.map_err(|why| (StatusCode::SERVICE_UNAVAILABLE, "FunctionExecutionError", why));
                let invalid = |why| (StatusCode::BAD_GATEWAY, "FunctionValidationError", why);
                (answer.and_then(|answer| script::effect(answer).map_err(invalid)), None)
            }
            Handler::Function => {
                let (answer, start) = self.environment.invoke(viewer.lambda_event().to_string()).await;
                let answer = answer.map_err(|why| (StatusCode::SERVICE_UNAVAILABLE, "LambdaExecutionError", why));
                let invalid = |why| (StatusCode::BAD_GATEWAY, "LambdaValidationError", why);
                (answer.and_then(|answer| rules::enforce(&answer, &viewer.headers).map_err(invalid)), start)
            }
        }
    }

    /// The object at the origin, or the page for the error. That page is fetched without running a function again.
    async fn fetch(&self, viewer: &Viewer, uri: &str) -> Response {
        let mut response = self.object(&viewer.method, uri, &viewer.headers).await;
        let status = response.status();
        if let Some(page) = self.distribution.error_page(status.as_u16()) {
            response = self.object("GET", &page.response_page_path, &HeaderMap::new()).await;
            if response.status() == StatusCode::OK {
                *response.status_mut() = StatusCode::from_u16(page.response_code).unwrap_or(status);
            }
        }
        let is_found = status.is_success() || status == StatusCode::NOT_MODIFIED;
        from(if is_found { "Miss" } else { "Error" }, (SECURITY_HEADERS, response))
    }

    /// Where an object is in the folder: `beta/` is below `beta_path`, the rest below `current_path`. At the root, `just
    /// publish` also puts a directory's index page under the directory's own name.
    fn file(&self, uri: &str) -> Option<String> {
        let below = |prefix: &str| uri.strip_prefix(prefix).filter(|rest| rest.starts_with('/'));
        if let Some(rest) = below(&self.settings.beta_path) {
            return Some(format!("/beta{rest}"));
        }
        let current = self.settings.current_path.trim_end_matches('/');
        let index = if current.is_empty() && uri.ends_with('/') { "index.html" } else { "" };
        below(current).filter(|rest| !rest.starts_with("/beta/")).map(|rest| format!("{rest}{index}"))
    }

    /// An object: no directory index, and 403 for a missing key, as CloudFront may not list it.
    async fn object(&self, method: &str, uri: &str, headers: &HeaderMap) -> Response {
        let missing = || (StatusCode::FORBIDDEN, [(CONTENT_TYPE, "application/xml")], S3_ACCESS_DENIED).into_response();
        let Some(file) = self.file(uri) else { return missing() };
        let Ok(mut request) = Request::builder().method(method).uri(file).body(Body::empty()) else {
            return missing();
        };
        request.headers_mut().clone_from(headers);
        let folder = ServeDir::new(ORIGIN).append_index_html_on_directories(false);
        let Ok(response) = folder.oneshot(request).await;
        if matches!(response.status(), StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
            return missing();
        }
        // Nothing is cached, so that a change in the folder shows at once.
        ([(CACHE_CONTROL, "no-cache")], response).into_response()
    }
}

/// What runs on a request, unless CloudFront refuses it first.
fn check(viewer: &Viewer, behavior: &Behavior) -> Result<Handler, Refusal> {
    if viewer.uri.len() + viewer.query.len() >= MAX_URL_LENGTH {
        let problem = anyhow!("the URL is longer than {MAX_URL_LENGTH} characters");
        return Err((StatusCode::URI_TOO_LONG, "Error", problem));
    }
    if !behavior.allowed_methods.contains(&viewer.method) {
        let problem = anyhow!("the behavior {} does not allow {}", behavior.path_pattern, viewer.method);
        return Err((StatusCode::FORBIDDEN, "Error", problem));
    }
    Ok(behavior.handler())
}

/// A response with the header that names its origin.
fn from(origin: &str, response: impl IntoResponse) -> Response {
    ([("x-cache", format!("{origin} from cloudfront"))], response).into_response()
}
