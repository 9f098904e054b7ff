//! CloudFront, as far as a viewer sees it: the cache behavior, the function, the origin, the error page.

use super::behaviors::{Distribution, OnViewerRequest};
use super::environment::Environment;
use super::journal::{Journal, Served};
use super::rules::{self, MAX_ADDRESS};
use super::script::Script;
use super::viewer::Viewer;
use axum::body::Body;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use serde_json::Value;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Instant;
use tower::ServiceExt;
use tower_http::services::ServeDir;

const ERROR_PAGE: &str = include_str!("page/error.html");

/// Where the bucket policy lets CloudFront read: `just deploy` puts the folder of the site there.
const BUCKET_PREFIX: &str = "/site/";

/// A distribution that serves.
pub(super) struct CloudFront {
    pub distribution: Distribution,
    pub environment: Environment,
    pub origin: PathBuf,
    pub journal: Journal,
}

/// A response, and what the log tells of how it came about.
struct Answered {
    response: Response<Body>,
    by: &'static str,
    problem: Option<String>,
    cold: bool,
}

impl CloudFront {
    /// Answers a viewer's request. The body of a request is read by no function here, nor by S3.
    pub(super) async fn answer(&self, request: Parts, peer: IpAddr) -> Response<Body> {
        let started = Instant::now();
        let mut viewer = Viewer::new(&request, peer);
        if let (Some(root), "/") = (&self.distribution.default_root_object, viewer.uri.as_str()) {
            viewer.uri = format!("/{}", root.trim_start_matches('/'));
        }
        self.journal.arrived(&viewer);
        let behavior = self.distribution.behavior(&viewer.uri);
        let mut answer = if viewer.uri.len() + viewer.query.len() >= MAX_ADDRESS {
            let problem = format!("the address is longer than {MAX_ADDRESS} characters");
            refused(StatusCode::URI_TOO_LONG, "Error from cloudfront", "nothing", problem)
        } else if !behavior.methods.contains(&viewer.method) {
            let problem = format!("the behavior {} does not allow {}", behavior.pattern, viewer.method);
            refused(StatusCode::FORBIDDEN, "Error from cloudfront", "nothing", problem)
        } else {
            match &behavior.on_viewer_request {
                OnViewerRequest::Nothing => self.fetch(&viewer, &viewer.uri, behavior.headers, "nothing").await,
                OnViewerRequest::Script(script) => self.run_script(script, &viewer, behavior.headers).await,
                OnViewerRequest::Function => self.run_function(&viewer, behavior.headers).await,
            }
        };
        let headers = answer.response.headers_mut();
        if let Ok(id) = HeaderValue::try_from(&viewer.id) {
            headers.insert("x-amz-cf-id", id);
        }
        let location = headers.get(LOCATION).and_then(|location| location.to_str().ok()).map(str::to_owned);
        let served = Served {
            behavior: behavior.pattern.clone(),
            by: answer.by,
            status: answer.response.status().as_u16(),
            location,
            problem: answer.problem,
            took_us: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
            cold: answer.cold,
        };
        self.journal.served(&viewer.id, served);
        answer.response
    }

    async fn run_function(&self, viewer: &Viewer, headers: &[(&'static str, &'static str)]) -> Answered {
        let request = viewer.lambda_request();
        let invocation = self.environment.invoke(viewer.lambda_event(&request).to_string().into_bytes()).await;
        let answer = match &invocation.answer {
            Ok(body) => rules::enforce(body, &request).map_err(|breach| {
                refused(
                    StatusCode::BAD_GATEWAY,
                    "LambdaValidationError from cloudfront",
                    "function",
                    breach.to_string(),
                )
            }),
            Err(failure) => Err(refused(
                StatusCode::SERVICE_UNAVAILABLE,
                "LambdaExecutionError from cloudfront",
                "function",
                failure.to_string(),
            )),
        };
        let answer = match answer {
            Ok(rules::Answer::Respond(response)) => {
                answered(response, "LambdaGeneratedResponse from cloudfront", "function")
            }
            Ok(rules::Answer::Continue { uri }) => self.fetch(viewer, &uri, headers, "function").await,
            Err(refusal) => refusal,
        };
        Answered { cold: invocation.cold, ..answer }
    }

    async fn run_script(&self, script: &Script, viewer: &Viewer, headers: &[(&'static str, &'static str)]) -> Answered {
        let answer = match script.run(&viewer.script_event(), &viewer.query) {
            Ok(answer) => answer,
            Err(error) => {
                let cache = "FunctionExecutionError from cloudfront";
                return refused(StatusCode::SERVICE_UNAVAILABLE, cache, "script", error.to_string());
            }
        };
        match (answer.get("statusCode"), answer.get("uri").and_then(Value::as_str)) {
            (Some(_), _) => match script_response(&answer) {
                Some(response) => answered(response, "FunctionGeneratedResponse from cloudfront", "script"),
                None => invalid_script("its response is not one that CloudFront takes"),
            },
            (None, Some(uri)) if uri.starts_with('/') => self.fetch(viewer, uri, headers, "script").await,
            (None, _) => invalid_script("it returned neither a response nor a request with a path"),
        }
    }

    /// What the origin has, with the page for its errors. A page of ours is fetched without asking a function again.
    async fn fetch(
        &self,
        viewer: &Viewer,
        uri: &str,
        headers: &[(&'static str, &'static str)],
        by: &'static str,
    ) -> Answered {
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
        let found = status.is_success() || status == StatusCode::NOT_MODIFIED;
        answered(response, if found { "Miss from cloudfront" } else { "Error from cloudfront" }, by)
    }

    /// An object of the private bucket: no directory index, and 403 for what is missing, as CloudFront may not list it.
    async fn object(&self, method: &str, uri: &str, headers: &HeaderMap) -> Response<Body> {
        let missing = || {
            let mut response = Response::new(Body::from(S3_ACCESS_DENIED));
            *response.status_mut() = StatusCode::FORBIDDEN;
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
            response
        };
        let Some(key) = uri.strip_prefix(BUCKET_PREFIX) else { return missing() };
        let mut request = Request::builder().method(method).uri(format!("/{key}"));
        if let Some(own) = request.headers_mut() {
            own.clone_from(headers);
        }
        let Ok(request) = request.body(Body::empty()) else { return missing() };
        let folder = ServeDir::new(&self.origin).append_index_html_on_directories(false);
        let Ok(response) = folder.oneshot(request).await;
        if matches!(response.status(), StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
            return missing();
        }
        let mut response = response.map(Body::new);
        // Nothing is cached, so that a change in the folder shows at once.
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }
}

const S3_ACCESS_DENIED: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";

fn answered(mut response: Response<Body>, cache: &'static str, by: &'static str) -> Answered {
    response.headers_mut().insert("x-cache", HeaderValue::from_static(cache));
    Answered { response, by, problem: None, cold: false }
}

/// CloudFront's own error, with the reason that only its logs would tell.
fn refused(status: StatusCode, cache: &'static str, by: &'static str, problem: String) -> Answered {
    let title = format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default());
    let page = ERROR_PAGE.replace("{title}", &title).replace("{problem}", &escaped(&problem));
    let mut response = Response::new(Body::from(page));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    Answered { problem: Some(problem), ..answered(response, cache, by) }
}

fn invalid_script(problem: &str) -> Answered {
    let problem = format!("the CloudFront Function: {problem}");
    refused(StatusCode::BAD_GATEWAY, "FunctionValidationError from cloudfront", "script", problem)
}

fn script_response(answer: &Value) -> Option<Response<Body>> {
    let status = answer.get("statusCode")?.as_u64()?;
    let mut headers = HeaderMap::new();
    for (name, value) in answer.get("headers").and_then(Value::as_object).into_iter().flatten() {
        let value = value.get("value")?.as_str()?;
        headers.append(HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?);
    }
    let body = answer.get("body").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(u16::try_from(status).ok()?).ok()?;
    *response.headers_mut() = headers;
    Some(response)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
