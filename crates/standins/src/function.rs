//! A function as a process of its own, with its log.

use super::RuntimeApi;
use parking_lot::Mutex;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// A running function. The process is killed when this is dropped.
pub struct Function {
    process: Child,
    log: Arc<Mutex<Vec<String>>>,
    lines: watch::Receiver<usize>,
}

impl Function {
    /// Starts `program` with the environment that Lambda gives a function, and no other.
    ///
    /// # Errors
    /// The program could not be started.
    pub fn start<P: AsRef<Path>>(
        program: P,
        api: &RuntimeApi,
        environment: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>,
    ) -> io::Result<Self> {
        let mut command = Command::new(program.as_ref());
        command.env_clear().envs(lambda_environment(api)).envs(environment);
        Self::run(command)
    }

    /// Starts a command whose environment is complete.
    ///
    /// # Errors
    /// The command could not be started.
    pub fn run(mut command: Command) -> io::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn()?;
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let (count, lines) = watch::channel(0);
        let count = Arc::new(count);
        if let Some(stdout) = process.stdout.take() {
            tokio::spawn(collect(stdout, log.clone(), count.clone()));
        }
        if let Some(stderr) = process.stderr.take() {
            tokio::spawn(collect(stderr, log.clone(), count));
        }
        Ok(Self { process, log, lines })
    }

    /// The lines that the function wrote so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().clone()
    }

    /// Waits until the log fits, or the function ends; returns it.
    pub async fn log_when(&self, wanted: impl Fn(&[String]) -> bool) -> Vec<String> {
        let mut lines = self.lines.clone();
        loop {
            lines.mark_unchanged();
            let log = self.log();
            if wanted(&log) || lines.changed().await.is_err() {
                return log;
            }
        }
    }

    /// The log as it is written. A line that is taken from there is not kept here, so that the log of a function that
    /// lives long does not grow.
    pub fn follow(&self) -> Following {
        Following { log: self.log.clone(), lines: self.lines.clone() }
    }

    /// The process id.
    pub fn id(&self) -> Option<u32> {
        self.process.id()
    }

    /// Whether the process has not ended yet.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Stops the process where it is, as Lambda freezes an environment.
    pub fn freeze(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// Thaws a frozen process.
    pub fn thaw(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Asks the process to end, as Lambda does where an extension is registered.
    pub fn terminate(&self) {
        self.signal(libc::SIGTERM);
    }

    fn signal(&self, signal: libc::c_int) {
        if let Some(id) = self.process.id().and_then(|id| libc::pid_t::try_from(id).ok()) {
            // SAFETY: kill touches no memory; the process is a child that was not waited for, so the id is its own.
            unsafe { libc::kill(id, signal) };
        }
    }

    /// Waits for the process to end.
    ///
    /// # Errors
    /// The operating system does not know.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.process.wait().await
    }

    /// Ends the process without warning.
    ///
    /// # Errors
    /// It could not be killed.
    pub async fn kill(&mut self) -> io::Result<()> {
        self.process.kill().await
    }
}

/// The log of a [`Function`] as it is written.
pub struct Following {
    log: Arc<Mutex<Vec<String>>>,
    lines: watch::Receiver<usize>,
}

impl Following {
    /// Waits for the next lines; `None` when the function has ended and there are no more.
    pub async fn next(&mut self) -> Option<Vec<String>> {
        loop {
            self.lines.mark_unchanged();
            let lines = std::mem::take(&mut *self.log.lock());
            if !lines.is_empty() {
                return Some(lines);
            }
            self.lines.changed().await.ok()?;
        }
    }
}

/// The variables that Lambda sets, which are all that Lambda@Edge has.
/// <https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html#configuration-envvars-runtime>
pub fn lambda_environment(api: &RuntimeApi) -> Vec<(&'static str, String)> {
    vec![
        ("AWS_LAMBDA_RUNTIME_API", api.address().to_string()),
        ("AWS_LAMBDA_FUNCTION_NAME", "us-east-1.redirect".to_owned()),
        ("AWS_LAMBDA_FUNCTION_VERSION", "1".to_owned()),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128".to_owned()),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".to_owned()),
        ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/us-east-1.redirect".to_owned()),
        ("AWS_LAMBDA_LOG_STREAM_NAME", "2026/01/01/[1]0".to_owned()),
        ("AWS_REGION", "eu-central-1".to_owned()),
        ("AWS_DEFAULT_REGION", "eu-central-1".to_owned()),
        ("TZ", ":UTC".to_owned()),
    ]
}

async fn collect(stream: impl AsyncRead + Unpin, log: Arc<Mutex<Vec<String>>>, count: Arc<watch::Sender<usize>>) {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        log.lock().push(line);
        count.send_modify(|count| *count += 1);
    }
}
