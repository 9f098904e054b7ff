//! CloudFront, as far as a viewer sees it: the cache behavior, the function, the origin, the error page.

use super::distribution::{Distribution, Headers, OnViewerRequest};
use super::environment::Environment;
use super::journal::{Handler, Journal, Served};
use super::rules::{self, Effect, MAX_URL_LENGTH};
use super::script::Script;
use super::viewer::{Viewer, cookie};
use axum::body::Body;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION, SET_COOKIE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use redirect::preview_token::PreviewToken;
use redirect::settings::Settings;
use serde_json::Value;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tower::ServiceExt;
use tower_http::services::ServeDir;

const ERROR_PAGE: &str = include_str!("page/error.html");

const S3_ACCESS_DENIED: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";

/// A distribution that serves.
pub(super) struct CloudFront {
    pub distribution: Distribution,
    pub environment: Environment,
    /// The private bucket: a folder with both sites, laid out as `just deploy` uploads it.
    pub origin: PathBuf,
    pub settings: Arc<Settings>,
    pub token: Arc<Option<PreviewToken>>,
    pub journal: Journal,
}

/// A response, and what the log has of it.
struct Handled {
    response: Response<Body>,
    problem: Option<String>,
    start: Option<Duration>,
}

impl CloudFront {
    /// Answers a viewer's request. No function here reads the body of a request, nor does S3.
    pub(super) async fn answer(&self, request: Parts, peer: IpAddr) -> Response<Body> {
        let begun = Instant::now();
        let mut viewer = Viewer::new(&request, peer);
        let url = viewer.url();
        if let ("/", Some(object)) = (viewer.uri.as_str(), &self.distribution.default_root_object) {
            viewer.uri = format!("/{object}");
        }
        let behavior = self.distribution.behavior(&viewer.uri);
        let (handler, answer) = if viewer.uri.len() + viewer.query.len() >= MAX_URL_LENGTH {
            let problem = format!("the URL is longer than {MAX_URL_LENGTH} characters");
            (Handler::Nothing, refused(StatusCode::URI_TOO_LONG, "Error", problem))
        } else if !behavior.methods.contains(&viewer.method) {
            let problem = format!("the behavior {} does not allow {}", behavior.pattern, viewer.method);
            (Handler::Nothing, refused(StatusCode::FORBIDDEN, "Error", problem))
        } else {
            match &behavior.on_viewer_request {
                OnViewerRequest::Nothing => {
                    (Handler::Nothing, self.fetch(&viewer, &viewer.uri, behavior.headers).await)
                }
                OnViewerRequest::Script(script) => {
                    (Handler::Script, self.run_script(script, &viewer, behavior.headers).await)
                }
                OnViewerRequest::Function => (Handler::Function, self.run_function(&viewer, behavior.headers).await),
            }
        };
        let Handled { mut response, problem, start } = answer;
        if let Ok(id) = HeaderValue::try_from(&viewer.id) {
            response.headers_mut().insert("x-amz-cf-id", id);
        }
        let headers = |name| response.headers().get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        // A token that is repeated, or under another name, is left in the address.
        let shown = |text: &str| match self.token.as_ref() {
            Some(token) => text.replace(token.reveal(), "TOKEN"),
            None => text.to_owned(),
        };
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let served = Served {
            behavior: behavior.pattern.clone(),
            handler,
            status: response.status().as_u16(),
            location: headers(LOCATION).next().map(shown),
            sets_cookies: headers(SET_COOKIE).filter_map(|cookie| Some(cookie.split_once('=')?.0.to_owned())).collect(),
            problem: problem.as_deref().map(shown),
            took_us: micros(begun.elapsed()),
            start_us: start.map(micros),
            url: shown(&url),
            visitor: cookie(&viewer.headers, &self.settings.visitor_cookie),
            viewer: viewer.address,
            method: viewer.method,
        };
        self.journal.served(viewer.id, served);
        response
    }

    async fn run_function(&self, viewer: &Viewer, headers: Headers) -> Handled {
        let request = viewer.lambda_request();
        let invocation = self.environment.invoke(viewer.lambda_event(&request).to_string().into_bytes()).await;
        let handled = match invocation.answer.map(|answer| rules::enforce(&answer, &request)) {
            Ok(Ok(Effect::Respond(response))) => from(response, "LambdaGeneratedResponse"),
            Ok(Ok(Effect::Continue { uri })) => self.fetch(viewer, &uri, headers).await,
            Ok(Err(breach)) => refused(StatusCode::BAD_GATEWAY, "LambdaValidationError", breach.to_string()),
            Err(failure) => refused(StatusCode::SERVICE_UNAVAILABLE, "LambdaExecutionError", failure.to_string()),
        };
        Handled { start: invocation.start, ..handled }
    }

    async fn run_script(&self, script: &Script, viewer: &Viewer, headers: Headers) -> Handled {
        let answer = match script.run(&viewer.script_event(), &viewer.query) {
            Ok(answer) => answer,
            Err(error) => {
                return refused(StatusCode::SERVICE_UNAVAILABLE, "FunctionExecutionError", error.to_string());
            }
        };
        let invalid = || {
            let problem = "the CloudFront Function returned neither a valid response nor a request with a path";
            refused(StatusCode::BAD_GATEWAY, "FunctionValidationError", problem.to_owned())
        };
        match (answer.get("statusCode"), answer.get("uri").and_then(Value::as_str)) {
            (Some(_), _) => {
                script_response(&answer).map_or_else(invalid, |response| from(response, "FunctionGeneratedResponse"))
            }
            (None, Some(uri)) if uri.starts_with('/') => self.fetch(viewer, uri, headers).await,
            (None, _) => invalid(),
        }
    }

    /// The object at the origin, or the page for the error. That page is fetched without running a function again.
    async fn fetch(&self, viewer: &Viewer, uri: &str, headers: Headers) -> Handled {
        let mut response = self.object(&viewer.method, uri, &viewer.headers).await;
        let status = response.status();
        if let Some(page) = self.distribution.error_page(status.as_u16()) {
            response = self.object("GET", &page.response_page_path, &HeaderMap::new()).await;
            if response.status() == StatusCode::OK {
                *response.status_mut() = StatusCode::from_u16(page.response_code).unwrap_or(status);
            }
        }
        for (name, value) in headers {
            response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let is_found = status.is_success() || status == StatusCode::NOT_MODIFIED;
        from(response, if is_found { "Miss" } else { "Error" })
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
    async fn object(&self, method: &str, uri: &str, headers: &HeaderMap) -> Response<Body> {
        let missing = || response(StatusCode::FORBIDDEN, "application/xml", S3_ACCESS_DENIED.to_owned());
        let Some(file) = self.file(uri) else { return missing() };
        let Ok(mut request) = Request::builder().method(method).uri(file).body(Body::empty()) else {
            return missing();
        };
        request.headers_mut().clone_from(headers);
        let folder = ServeDir::new(&self.origin).append_index_html_on_directories(false);
        let Ok(mut response) = folder.oneshot(request).await;
        if matches!(response.status(), StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
            return missing();
        }
        // Nothing is cached, so that a change in the folder shows at once.
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response.map(Body::new)
    }
}

fn response(status: StatusCode, content_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A response with the header that names its origin.
fn from(mut response: Response<Body>, origin: &str) -> Handled {
    if let Ok(value) = HeaderValue::try_from(format!("{origin} from cloudfront")) {
        response.headers_mut().insert("x-cache", value);
    }
    Handled { response, problem: None, start: None }
}

/// CloudFront's own error, with the reason that only its logs would have.
fn refused(status: StatusCode, origin: &str, problem: String) -> Handled {
    let escaped = problem.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let page = ERROR_PAGE.replace("{title}", &status.to_string()).replace("{problem}", &escaped);
    Handled { problem: Some(problem), ..from(response(status, "text/html; charset=utf-8", page), origin) }
}

/// The response of a CloudFront Function, if it is valid.
fn script_response(answer: &Value) -> Option<Response<Body>> {
    let mut response =
        Response::new(Body::from(answer.get("body").and_then(Value::as_str).unwrap_or_default().to_owned()));
    let status = answer.get("statusCode")?.as_u64()?;
    *response.status_mut() = StatusCode::from_u16(u16::try_from(status).ok()?).ok()?;
    for (name, value) in answer.get("headers").and_then(Value::as_object).into_iter().flatten() {
        let value = value.get("value")?.as_str()?;
        response.headers_mut().append(HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?);
    }
    for (name, cookie) in answer.get("cookies").and_then(Value::as_object).into_iter().flatten() {
        let text = |field| cookie.get(field).and_then(Value::as_str);
        let cookie = format!("{name}={}; {}", text("value")?, text("attributes").unwrap_or_default());
        response.headers_mut().append(SET_COOKIE, HeaderValue::try_from(cookie).ok()?);
    }
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_cookie_of_a_cloudfront_function_is_a_header_of_its_own() {
        let cookies =
            json!({"a": {"value": "1", "attributes": "Path=/; Secure"}, "b": {"value": "2", "attributes": "Path=/"}});
        let response = script_response(&json!({"statusCode": 302, "cookies": cookies})).unwrap();
        let set: Vec<_> = response.headers().get_all(SET_COOKIE).iter().collect();
        assert_eq!(set, ["a=1; Path=/; Secure", "b=2; Path=/"]);
    }
}
