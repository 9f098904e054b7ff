//! The function's execution environment: the real binary as a process of its own, which handles one event after the
//! other, starts cold, is frozen and thawed, and can be killed at any time.

use super::journal::Journal;
use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value;
use standins::{Following, Function, Outcome, RuntimeApi, lambda_environment};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long Lambda waits for a function to ask for its first event.
/// <https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html>
const INIT_TIMEOUT: Duration = Duration::from_secs(10);

/// How far the deadline moves when the environment is frozen for a while: what the function sees of the time.
const LONG_FREEZE: Duration = Duration::from_secs(600);

/// What is started, and how.
pub(super) struct Program {
    pub path: PathBuf,
    /// Beside the variables that Lambda sets.
    pub variables: BTreeMap<String, String>,
    /// How long an invocation may take.
    pub timeout: Duration,
    /// Whether it is frozen between invocations.
    pub freeze: bool,
}

/// What the control page shows of the environment.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Status {
    state: State,
    cold_starts: u64,
    invocations: u64,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// There is no process.
    #[default]
    None,
    Running,
    Frozen,
}

/// The end of an invocation.
pub(super) struct Invocation {
    /// The answer, or why there is none.
    pub answer: Result<Bytes, Failure>,
    /// How long the cold start took, if there was one.
    pub start: Option<Duration>,
}

/// Why a function gave no answer: a 503 for the viewer.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub(super) enum Failure {
    #[error("the function could not be started: {0}")]
    Start(io::Error),
    #[error("the function did not start: {0}")]
    Init(String),
    #[error("the function reported an error: {0}")]
    Reported(String),
    #[error("the function took longer than {0:?}")]
    TimedOut(Duration),
    #[error("the function's process ended without an answer ({0})")]
    Ended(String),
}

/// The environment. Clones share it.
#[derive(Clone)]
pub(super) struct Environment {
    /// Locked for as long as the environment is busy: who waits for it is served in order.
    worker: Arc<tokio::sync::Mutex<Worker>>,
    status: Arc<Mutex<Status>>,
}

impl Environment {
    /// An environment that starts with its first event.
    pub(super) fn new(program: Program, journal: Journal) -> Self {
        let status = Arc::<Mutex<Status>>::default();
        let worker = Worker { program, journal, status: status.clone(), running: None, time_passed: Duration::ZERO };
        Self { worker: Arc::new(worker.into()), status }
    }

    /// Hands an event to the function.
    pub(super) async fn invoke(&self, event: Vec<u8>) -> Invocation {
        let (sender, answer) = oneshot::channel();
        let worker = self.worker.clone();
        // A task, because an invocation goes on after the answer, and if the viewer leaves.
        tokio::spawn(async move { worker.lock().await.invoke(event, sender).await });
        let ended = |_| Invocation { answer: Err(Failure::Ended("the preview ends".to_owned())), start: None };
        answer.await.unwrap_or_else(ended)
    }

    /// Freezes it now, and lets ten minutes pass for the function: it sees the time by its next deadline.
    pub(super) async fn freeze_long(&self) {
        let mut worker = self.worker.lock().await;
        worker.time_passed += LONG_FREEZE;
        worker.freeze();
    }

    /// Kills the process as soon as it is not busy.
    pub(super) async fn kill(&self) {
        self.worker.lock().await.kill().await;
    }

    pub(super) fn status(&self) -> Status {
        *self.status.lock()
    }
}

struct Worker {
    program: Program,
    journal: Journal,
    status: Arc<Mutex<Status>>,
    running: Option<Running>,
    /// How far the function's time is ahead of this machine's.
    time_passed: Duration,
}

struct Running {
    api: RuntimeApi,
    function: Function,
}

impl Worker {
    /// Answers an event, and waits until the function asks for the next.
    async fn invoke(&mut self, event: Vec<u8>, answer: oneshot::Sender<Invocation>) {
        let (begun, mut start) = (Instant::now(), None);
        let is_alive = |running: &mut Running| matches!(running.function.process.try_wait(), Ok(None));
        let running = if let Some(running) = self.running.take_if(is_alive) {
            Ok(running)
        } else {
            let started = self.start().await;
            start = Some(begun.elapsed());
            started
        };
        // The viewer may have left, so that nobody receives the answer.
        let mut running = match running {
            Ok(running) => running,
            Err(failure) => {
                let _ = answer.send(Invocation { answer: Err(failure), start });
                return self.show(State::None);
            }
        };
        let outcome = self.answer(&mut running, event).await;
        let is_lost = matches!(outcome, Err(Failure::TimedOut(_) | Failure::Ended(_)));
        let _ = answer.send(Invocation { answer: outcome, start });
        // Until it asks for the next event, it may do what a viewer need not wait for.
        let is_ready = !is_lost
            && tokio::select! {
                ready = timeout(self.program.timeout, running.api.idle()) => ready.is_ok(),
                _ = running.function.process.wait() => false,
            };
        if !is_ready && !is_lost {
            let message = "the function did not ask for another event; its environment is killed";
            self.journal.message(message.to_owned());
        }
        self.running = Some(running);
        match (is_ready, self.program.freeze) {
            (false, _) => self.kill().await,
            (true, true) => self.freeze(),
            (true, false) => self.show(State::Running),
        }
    }

    async fn answer(&self, Running { api, function }: &mut Running, event: Vec<u8>) -> Result<Bytes, Failure> {
        function.thaw();
        self.status.lock().invocations += 1;
        let limit = self.program.timeout;
        let deadline = SystemTime::now() + self.time_passed + limit;
        tokio::select! {
            outcome = timeout(limit, api.invoke_with_deadline(event, deadline)) => match outcome {
                Ok(Some(Outcome { body, is_error: false, .. })) => Ok(body),
                Ok(outcome) => Err(Failure::Reported(outcome.map(|outcome| reported(&outcome.body)).unwrap_or_default())),
                Err(_) => Err(Failure::TimedOut(limit)),
            },
            status = function.process.wait() => Err(ended(status)),
        }
    }

    async fn start(&self) -> Result<Running, Failure> {
        let api = RuntimeApi::start().await.map_err(Failure::Start)?;
        let mut command = Command::new(&self.program.path);
        command.env_clear().envs(lambda_environment(&api)).envs(&self.program.variables);
        end_with_this_process(&mut command);
        let mut function = Function::run(command).map_err(Failure::Start)?;
        tokio::spawn(follow(function.follow(), self.journal.clone()));
        self.status.lock().cold_starts += 1;
        tokio::select! {
            () = api.polled(1) => Ok(()),
            error = api.init_error() => Err(Failure::Init(error)),
            status = function.process.wait() => Err(ended(status)),
            () = tokio::time::sleep(INIT_TIMEOUT) => Err(Failure::TimedOut(INIT_TIMEOUT)),
        }?;
        Ok(Running { api, function })
    }

    async fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            // It may have ended already.
            let _ = running.function.process.kill().await;
        }
        self.show(State::None);
    }

    fn freeze(&self) {
        if let Some(running) = &self.running {
            running.function.freeze();
            self.show(State::Frozen);
        }
    }

    fn show(&self, state: State) {
        self.status.lock().state = state;
        self.journal.state_changed();
    }
}

/// Kills the function when the preview ends without having had time to, also while the function is frozen. Linux sends
/// the signal when the thread that started the process ends: the preview has only one that does.
#[cfg(target_os = "linux")]
fn end_with_this_process(command: &mut Command) {
    let request = || {
        // SAFETY: prctl with these arguments touches no memory.
        match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec, the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(request) };
}

/// Elsewhere the function ends by itself, when it finds its Runtime API gone.
#[cfg(not(target_os = "linux"))]
fn end_with_this_process(_: &mut Command) {}

async fn follow(mut log: Following, journal: Journal) {
    while let Some(lines) = log.next().await {
        for line in lines {
            journal.line(&line);
        }
    }
}

/// The message of an error that the function reported.
fn reported(body: &[u8]) -> String {
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    let message = json.get("errorMessage").and_then(Value::as_str).map(str::to_owned);
    message.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned())
}

fn ended(status: io::Result<std::process::ExitStatus>) -> Failure {
    Failure::Ended(status.map_or_else(|error| error.to_string(), |status| status.to_string()))
}
