//! The function's execution environment: the real binary as a process of its own, which handles one event after the
//! other, starts cold, is frozen and thawed, and can be killed at any time.

use super::journal::Journal;
use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use standins::{Function, Outcome, RuntimeApi, lambda_environment};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::process::Command;
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
#[derive(Debug, Default, Serialize)]
pub(super) struct Status {
    state: State,
    cold_starts: u64,
    invocations: u64,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// There is no process.
    #[default]
    None,
    Running,
    Frozen,
}

/// The environment.
pub(super) struct Environment {
    /// Locked for as long as the environment is busy: waiting requests are served in order.
    worker: Arc<tokio::sync::Mutex<Worker>>,
    pub status: Arc<Mutex<Status>>,
}

impl Environment {
    /// An environment that starts with its first event.
    pub(super) fn new(program: Program, journal: Journal) -> Self {
        let status = Arc::<Mutex<Status>>::default();
        let time_passed = Duration::ZERO;
        let worker = Worker { program, journal, status: status.clone(), running: None, start: None, time_passed };
        Self { worker: Arc::new(worker.into()), status }
    }

    /// The function's answer to an event, or why there is none: a 503 for the viewer. Also how long a cold start took.
    pub(super) async fn invoke(&self, event: String) -> (Result<Bytes>, Option<Duration>) {
        let mut worker = self.worker.clone().lock_owned().await;
        // Tasks, because the invocation goes on if the viewer leaves, and after the answer.
        let invocation = tokio::spawn(async move {
            let answer = worker.answer(event).await;
            let start = worker.start.take();
            tokio::spawn(async move { worker.settle().await });
            (answer, start)
        });
        invocation.await.unwrap_or_else(|error| (Err(error.into()), None))
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
}

struct Worker {
    program: Program,
    journal: Journal,
    status: Arc<Mutex<Status>>,
    running: Option<(RuntimeApi, Function)>,
    /// How long the cold start of the present invocation took.
    start: Option<Duration>,
    /// How far the function's time is ahead of this machine's.
    time_passed: Duration,
}

impl Worker {
    /// The function's answer to an event. A function that gives none is killed.
    async fn answer(&mut self, event: String) -> Result<Bytes> {
        let outcome = self.outcome(event).await;
        if outcome.is_err() {
            self.kill().await;
        }
        let Outcome { body, is_error, .. } = outcome?;
        ensure!(!is_error, "the function reported an error: {}", String::from_utf8_lossy(&body));
        Ok(body)
    }

    /// How the function handles an event. Starts it if it does not run.
    async fn outcome(&mut self, event: String) -> Result<Outcome> {
        let running = match self.running.take_if(|(_, function)| matches!(function.process.try_wait(), Ok(None))) {
            Some(running) => running,
            None => self.start().await?,
        };
        let (api, function) = self.running.insert(running);
        function.thaw();
        self.status.lock().invocations += 1;
        let limit = self.program.timeout;
        let deadline = SystemTime::now() + self.time_passed + limit;
        within(limit, function, api.invoke_with_deadline(event, deadline)).await?.context("the function is gone")
    }

    async fn start(&mut self) -> Result<(RuntimeApi, Function)> {
        let begun = Instant::now();
        let api = RuntimeApi::start().await?;
        let mut command = Command::new(&self.program.path);
        command.env_clear().envs(lambda_environment(&api)).envs(&self.program.variables);
        end_with_this_process(&mut command);
        let mut function = Function::run(command).context("the function could not be started")?;
        let (mut log, journal) = (function.follow(), self.journal.clone());
        tokio::spawn(async move {
            while let Some(lines) = log.next().await {
                for line in lines {
                    journal.line(&line);
                }
            }
        });
        self.status.lock().cold_starts += 1;
        let ready = async {
            tokio::select! {
                () = api.polled(1) => Ok(()),
                error = api.init_error() => Err(anyhow!("the function did not start: {error}")),
            }
        };
        within(INIT_TIMEOUT, &mut function, ready).await??;
        self.start = Some(begun.elapsed());
        Ok((api, function))
    }

    /// Waits until the function asks for its next event: until then it does what a viewer need not wait for.
    async fn settle(&mut self) {
        let Some((api, function)) = &mut self.running else { return };
        if within(self.program.timeout, function, api.idle()).await.is_err() {
            self.journal.message("the function did not ask for another event; its environment is killed");
            self.kill().await;
        } else if self.program.freeze {
            self.freeze();
        } else {
            self.show(State::Running);
        }
    }

    async fn kill(&mut self) {
        if let Some((_, mut function)) = self.running.take() {
            // It may have ended already.
            let _ = function.process.kill().await;
        }
        self.show(State::None);
    }

    fn freeze(&self) {
        if let Some((_, function)) = &self.running {
            function.freeze();
            self.show(State::Frozen);
        }
    }

    fn show(&self, state: State) {
        self.status.lock().state = state;
        self.journal.state_changed();
    }
}

/// Waits for something that the function does. The error is that it takes too long or that its process ends.
async fn within<T>(limit: Duration, function: &mut Function, does: impl Future<Output = T>) -> Result<T> {
    tokio::select! {
        biased; // An answer counts even if the function ends right after it.
        outcome = timeout(limit, does) => outcome.with_context(|| format!("the function took longer than {limit:?}")),
        status = function.process.wait() => bail!("the function's process ended without an answer ({})", status?),
    }
}

/// Kills the function when the preview ends without having had time to, also while the function is frozen. Linux sends
/// the signal when the thread that started the process ends: the preview has only one that does. Elsewhere the function
/// ends by itself, when it finds its Runtime API gone.
fn end_with_this_process(command: &mut Command) {
    // SAFETY: between fork and exec, the closure makes one system call, which touches no memory, and allocates nothing.
    #[cfg(target_os = "linux")]
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}
