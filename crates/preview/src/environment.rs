//! The function's execution environment: the real binary as a process of its own, which takes one event after the
//! other, starts cold, is frozen and thawed, and can be killed at any time.

use super::journal::Journal;
use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value;
use standins::{Following, Function, Outcome, RuntimeApi, lambda_environment};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Lambda gives a function that long to ask for its first event.
/// <https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html>
const INIT_TIMEOUT: Duration = Duration::from_secs(10);

/// How far the deadline moves when the environment is frozen for a while: what the function sees of the time.
const LONG_FREEZE: Duration = Duration::from_secs(600);

/// What is started, and how.
pub(super) struct Program {
    pub path: PathBuf,
    /// Beside the variables that Lambda sets.
    pub variables: Vec<(String, String)>,
    /// How long an invocation may take.
    pub timeout: Duration,
    /// Whether it is frozen between invocations.
    pub freeze: bool,
}

/// What the control page shows of the environment.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Status {
    /// `none`, `running` or `frozen`.
    pub state: &'static str,
    pub cold_starts: u64,
    pub invocations: u64,
}

/// What became of an event.
pub(super) struct Invocation {
    /// The answer, or why there is none.
    pub answer: Result<Bytes, Failure>,
    pub cold: bool,
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

/// The environment. It ends, with its process, when this is dropped.
#[derive(Clone)]
pub(super) struct Environment {
    jobs: mpsc::UnboundedSender<Job>,
    status: Arc<Mutex<Status>>,
}

enum Job {
    Invoke(Vec<u8>, oneshot::Sender<Invocation>),
    FreezeLong(oneshot::Sender<()>),
    Kill(oneshot::Sender<()>),
}

impl Environment {
    /// An environment that starts with its first event.
    pub(super) fn new(program: Program, journal: Journal) -> Self {
        let (jobs, queue) = mpsc::unbounded_channel();
        let status = Arc::new(Mutex::new(Status { state: "none", ..Status::default() }));
        let worker = Worker { program, journal, status: status.clone(), running: None, time_passed: Duration::ZERO };
        tokio::spawn(worker.run(queue));
        Self { jobs, status }
    }

    /// Hands an event to the function.
    pub(super) async fn invoke(&self, event: Vec<u8>) -> Invocation {
        let (sender, answer) = oneshot::channel();
        let _ = self.jobs.send(Job::Invoke(event, sender));
        let ended = |_| Invocation { answer: Err(Failure::Ended("the preview ends".to_owned())), cold: false };
        answer.await.unwrap_or_else(ended)
    }

    /// Freezes it now, and lets ten minutes pass for the function: it sees the time by its next deadline.
    pub(super) async fn freeze_long(&self) {
        self.order(Job::FreezeLong).await;
    }

    /// Kills the process, when it is done with what it has.
    pub(super) async fn kill(&self) {
        self.order(Job::Kill).await;
    }

    async fn order(&self, job: impl FnOnce(oneshot::Sender<()>) -> Job) {
        let (sender, done) = oneshot::channel();
        let _ = self.jobs.send(job(sender));
        // It is not done only when the preview ends.
        let _ = done.await;
    }

    pub(super) fn status(&self) -> Status {
        self.status.lock().clone()
    }
}

/// One event at a time, as Lambda gives them to an environment.
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
    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Job>) {
        while let Some(job) = queue.recv().await {
            match job {
                Job::Invoke(event, answer) => self.invoke(event, answer).await,
                Job::FreezeLong(done) => {
                    self.time_passed += LONG_FREEZE;
                    if let Some(running) = &self.running {
                        running.function.freeze();
                        self.show("frozen");
                    }
                    let _ = done.send(());
                }
                Job::Kill(done) => {
                    self.kill().await;
                    let _ = done.send(());
                }
            }
        }
    }

    async fn invoke(&mut self, event: Vec<u8>, answer: oneshot::Sender<Invocation>) {
        let cold = match self.running_or_started().await {
            Ok(cold) => cold,
            Err(failure) => {
                self.kill().await;
                let _ = answer.send(Invocation { answer: Err(failure), cold: true });
                return;
            }
        };
        let Some(Running { api, function }) = &mut self.running else { return };
        function.thaw();
        self.status.lock().invocations += 1;
        let polls = api.polls();
        let limit = self.program.timeout;
        let deadline = SystemTime::now() + self.time_passed + limit;
        let outcome = tokio::select! {
            outcome = timeout(limit, api.invoke_with_deadline(event, deadline)) => match outcome {
                Ok(Some(Outcome { body, is_error: false, .. })) => Ok(body),
                Ok(outcome) => Err(Failure::Reported(reported(outcome.as_ref()))),
                Err(_) => Err(Failure::TimedOut(limit)),
            },
            status = function.ended() => Err(ended(status)),
        };
        let failed = matches!(&outcome, Err(Failure::TimedOut(_) | Failure::Ended(_)));
        // The viewer may have gone.
        let _ = answer.send(Invocation { answer: outcome, cold });
        if failed {
            return self.kill().await;
        }
        // Until it asks for the next event, it may do what a viewer need not wait for.
        let is_ready = tokio::select! {
            ready = timeout(limit, api.polled(polls + 1)) => ready.is_ok(),
            _ = function.ended() => false,
        };
        if !is_ready {
            self.journal.message("error", "the function did not ask for another event; its environment is given up");
            self.kill().await;
        } else if self.program.freeze {
            function.freeze();
            self.show("frozen");
        } else {
            self.show("running");
        }
    }

    /// Whether it had to be started for this event.
    async fn running_or_started(&mut self) -> Result<bool, Failure> {
        if self.running.as_mut().is_some_and(|running| running.function.is_alive()) {
            return Ok(false);
        }
        let api = RuntimeApi::start().await.map_err(Failure::Start)?;
        let mut command = Command::new(&self.program.path);
        command.env_clear().envs(lambda_environment(&api)).envs(self.program.variables.clone());
        end_with_this_process(&mut command);
        let mut function = Function::run(command).map_err(Failure::Start)?;
        tokio::spawn(follow(function.follow(), self.journal.clone()));
        self.status.lock().cold_starts += 1;
        tokio::select! {
            () = api.polled(1) => {}
            error = api.init_error() => return Err(Failure::Init(error)),
            status = function.ended() => return Err(ended(status)),
            () = tokio::time::sleep(INIT_TIMEOUT) => return Err(Failure::TimedOut(INIT_TIMEOUT)),
        }
        self.running = Some(Running { api, function });
        Ok(true)
    }

    async fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            // Where it has ended already there is nothing to kill.
            let _ = running.function.kill().await;
        }
        self.show("none");
    }

    fn show(&self, state: &'static str) {
        self.status.lock().state = state;
        self.journal.state_changed();
    }
}

/// Kills the function when the preview ends without having had time to, also while the function is frozen. Linux sends
/// the signal when the thread that started the process ends: the preview has only one that does.
#[cfg(target_os = "linux")]
fn end_with_this_process(command: &mut Command) {
    let ask = || {
        // SAFETY: prctl with these arguments touches no memory.
        match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec, the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(ask) };
}

/// Elsewhere the function ends by itself, when it finds its Runtime API gone.
#[cfg(not(target_os = "linux"))]
fn end_with_this_process(_: &mut Command) {}

async fn follow(mut lines: Following, journal: Journal) {
    while let Some(lines) = lines.next().await {
        for line in lines {
            journal.line(&line);
        }
    }
}

fn reported(outcome: Option<&Outcome>) -> String {
    let body = outcome.map(|outcome| outcome.body.clone()).unwrap_or_default();
    let json: Value = serde_json::from_slice(&body).unwrap_or_default();
    match json.get("errorMessage").and_then(Value::as_str) {
        Some(message) => message.to_owned(),
        None => String::from_utf8_lossy(&body).into_owned(),
    }
}

fn ended(status: io::Result<std::process::ExitStatus>) -> Failure {
    Failure::Ended(status.map_or_else(|error| error.to_string(), |status| status.to_string()))
}
