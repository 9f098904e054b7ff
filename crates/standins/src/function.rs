//! A function as a process of its own, with its log.

use super::RuntimeApi;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// A running function. The process is killed when this is dropped.
pub struct Function {
    /// Its process.
    pub process: Child,
    log: watch::Receiver<Vec<String>>,
}

impl Function {
    /// Starts `program` with the environment that Lambda gives a function and these variables, and no other.
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
    pub fn run(mut command: Command) -> io::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn()?;
        let (lines, log) = watch::channel(Vec::new());
        let lines = Arc::new(lines);
        tokio::spawn(collect(process.stdout.take(), lines.clone()));
        tokio::spawn(collect(process.stderr.take(), lines));
        Ok(Self { process, log })
    }

    /// The lines that the function wrote so far.
    pub fn log(&self) -> Vec<String> {
        self.log.borrow().clone()
    }

    /// Waits until the log fits, or the function ends; returns it.
    pub async fn log_when(&self, wanted: impl Fn(&[String]) -> bool) -> Vec<String> {
        // It ends with an error, and the log is returned as it is, when the function has ended.
        let _ = self.log.clone().wait_for(|log| wanted(log)).await;
        self.log()
    }

    /// The log as it is written.
    pub fn follow(&self) -> Following {
        Following { log: self.log.clone(), seen: 0 }
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
}

/// The log of a [`Function`] as it is written.
pub struct Following {
    log: watch::Receiver<Vec<String>>,
    seen: usize,
}

impl Following {
    /// Waits for the next lines; `None` when the function has ended and there are no more.
    pub async fn next(&mut self) -> Option<Vec<String>> {
        let log = self.log.wait_for(|log| log.len() > self.seen).await.ok()?;
        let lines = log.get(self.seen..)?.to_vec();
        self.seen = log.len();
        Some(lines)
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

async fn collect(stream: Option<impl AsyncRead + Unpin>, log: Arc<watch::Sender<Vec<String>>>) {
    let Some(stream) = stream else { return };
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        log.send_modify(|log| log.push(line));
    }
}
