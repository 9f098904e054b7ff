//! A CloudFront Function, run by a JavaScript engine as it stands in the template.
//!
//! <https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/functions-event-structure.html>

use rquickjs::{CatchResultExt, Context, Function, Runtime};
use serde_json::Value;
use std::time::{Duration, Instant};

/// CloudFront gives a function about a millisecond; an unoptimized engine needs longer.
const TIMEOUT: Duration = Duration::from_millis(500);

/// Calls `handler` with the event and returns its result, both as JSON. Only a method gives the query string as it was
/// sent:
/// <https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/general-helper-methods.html>
const CALL: &str = "(event, query) => {
    event = JSON.parse(event);
    event.request.rawQueryString = () => query;
    return JSON.stringify(handler(event));
}";

/// The code of a CloudFront Function.
#[derive(Debug)]
pub(super) struct Script {
    name: String,
    code: String,
}

/// What failed in a CloudFront Function.
#[derive(Debug, thiserror::Error)]
#[error("the CloudFront Function {name}: {why}")]
pub(super) struct ScriptError {
    name: String,
    why: String,
}

impl Script {
    /// Accepts code that defines a handler.
    pub(super) fn new(name: &str, code: &str) -> Result<Self, ScriptError> {
        let script = Self { name: name.to_owned(), code: code.to_owned() };
        script.with_handler(|_| Ok(()))?;
        Ok(script)
    }

    /// Runs the handler on an event.
    pub(super) fn run(&self, event: &Value, query: &str) -> Result<Value, ScriptError> {
        let result: String = self.with_handler(|call| call.call((event.to_string(), query)))?;
        serde_json::from_str(&result).map_err(|error| self.failed(&error))
    }

    /// In an engine of its own, as CloudFront runs it: no state stays from one call to the next.
    fn with_handler<T>(&self, run: impl FnOnce(Function<'_>) -> rquickjs::Result<T>) -> Result<T, ScriptError> {
        let runtime = Runtime::new().map_err(|error| self.failed(&error))?;
        let started = Instant::now();
        runtime.set_interrupt_handler(Some(Box::new(move || started.elapsed() > TIMEOUT)));
        let context = Context::full(&runtime).map_err(|error| self.failed(&error))?;
        context.with(|engine| {
            let called = || {
                engine.eval::<(), _>(self.code.as_str())?;
                engine.globals().get::<_, Function<'_>>("handler")?;
                run(engine.eval(CALL)?)
            };
            called().catch(&engine).map_err(|error| self.failed(&error))
        })
    }

    fn failed(&self, why: &impl ToString) -> ScriptError {
        ScriptError { name: self.name.clone(), why: why.to_string().trim().to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_handler_changes_the_request() {
        let code =
            "function handler(event) { var r = event.request; r.uri += 'index.html?' + r.rawQueryString(); return r; }";
        let request = Script::new("Index", code).unwrap().run(&json!({"request": {"uri": "/a/"}}), "b=c").unwrap();
        assert_eq!(request, json!({"uri": "/a/index.html?b=c"}));
    }

    #[track_caller]
    fn check_refused(code: &str, expected: &str) {
        let run = |script: Script| script.run(&json!({"request": {}}), "");
        let error = Script::new("Broken", code).and_then(run).unwrap_err().to_string();
        assert!(error.starts_with("the CloudFront Function Broken: ") && error.contains(expected), "{error}");
    }

    #[test]
    fn a_fault_in_the_code_is_reported() {
        check_refused("function handler(", "missing formal parameter");
        check_refused("function other() {}", "function");
        check_refused("function handler(event) { return event.response.uri; }", "cannot read property");
        check_refused("function handler() { while (true) {} }", "interrupted");
        check_refused("function handler() {}", "undefined");
    }
}
