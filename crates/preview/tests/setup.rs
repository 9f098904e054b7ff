//! A running preview, and a look at its processes.

use bytes::Bytes;
use flag_data::clock::Clock;
use flag_data::transport::Transport;
use http::{Request, Response};
use libc::{c_int, pid_t};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

/// Longer than anything here takes; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running preview; it is killed when this is dropped.
pub(crate) struct Preview {
    process: Child,
    url: String,
    http: Transport,
}

fn command(program: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(program);
    command
        .arg("--no-open")
        .args(arguments)
        .envs(variables.iter().copied())
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    if variables.is_empty() {
        command.env_remove("LAUNCHDARKLY_SDK_KEY");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

impl Preview {
    /// Starts it on a free port, and waits until it takes requests.
    pub(crate) async fn start(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::running(command(Path::new(env!("CARGO_BIN_EXE_preview")), arguments, variables)).await
    }

    /// The same with another program than the one that was built.
    pub(crate) async fn start_with(program: &Path) -> Self {
        Self::running(command(program, &[], &[])).await
    }

    async fn running(mut command: Command) -> Self {
        let mut process = command.args(["--port", "0"]).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let first = lines.next_line().await.unwrap().unwrap_or_default();
        let url = first.strip_prefix("The site:").map(|url| url.trim().trim_end_matches('/').to_owned());
        let url = url.unwrap_or_else(|| panic!("the preview did not start: {first:?}"));
        Self { process, url, http: Transport::new(Clock::default(), PATIENCE) }
    }

    /// Starts it where it cannot run, and gives its exit code and what it says.
    pub(crate) async fn refused(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
        let mut process = command(Path::new(env!("CARGO_BIN_EXE_preview")), arguments, variables).spawn().unwrap();
        let mut message = String::new();
        process.stderr.take().unwrap().read_to_string(&mut message).await.unwrap();
        (process.wait().await.unwrap().code(), message)
    }

    pub(crate) async fn get(&self, path: &str) -> Response<Vec<u8>> {
        self.send("GET", path, None).await
    }

    pub(crate) async fn send(&self, method: &str, path: &str, body: Option<Value>) -> Response<Vec<u8>> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map(|body| Bytes::from(body.to_string()));
        self.http.exchange(request.body(body).unwrap(), 1 << 20).await.unwrap()
    }

    /// Waits until the control page gets a state that fits.
    pub(crate) async fn state(&self, fits: impl Fn(&Value) -> bool) -> Value {
        let stream = tokio::net::TcpStream::connect(self.url.trim_start_matches("http://")).await.unwrap();
        let (reading, mut writing) = stream.into_split();
        let request = "GET /__preview/news HTTP/1.1\r\nhost: preview\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut writing, request.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(reading).lines();
        while let Some(line) = lines.next_line().await.unwrap() {
            let state = line.strip_prefix("data: ").and_then(|json| serde_json::from_str::<Value>(json).ok());
            if let Some(state) = state.filter(|state| state.get("flag").is_some() && fits(state)) {
                return state;
            }
        }
        panic!("the preview ended");
    }

    /// Visits, waits until the function is frozen, and gives its process id.
    pub(crate) async fn visited_and_frozen(&self) -> pid_t {
        self.get("/").await;
        let function = self.function();
        eventually("the function is frozen", || is_frozen(function)).await;
        function
    }

    /// The process id of the function.
    fn function(&self) -> pid_t {
        let id = pid_t::try_from(self.process.id().unwrap()).unwrap();
        let processes =
            fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        let mut children = processes.filter(|process| stat(*process).is_some_and(|(_, parent)| parent == id));
        children.next().expect("the preview has no function")
    }

    pub(crate) fn signal(&self, signal: c_int) {
        let id = pid_t::try_from(self.process.id().unwrap()).unwrap();
        // SAFETY: kill touches no memory; the process is a child that was not waited for.
        assert_eq!(unsafe { libc::kill(id, signal) }, 0);
    }

    pub(crate) async fn ended(&mut self) -> Option<i32> {
        self.process.wait().await.unwrap().code()
    }
}

/// Polls: the system notifies nobody of these changes.
pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let looking = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, looking).await.is_ok(), "not so: {what}");
}

pub(crate) fn is_frozen(process: pid_t) -> bool {
    stat(process).is_some_and(|(state, _)| state == 'T')
}

/// Whether a process has ended, even if nobody has asked yet how.
pub(crate) fn is_gone(process: pid_t) -> bool {
    stat(process).is_none_or(|(state, _)| state == 'Z')
}

/// The state of a process, and its parent.
fn stat(process: pid_t) -> Option<(char, pid_t)> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// A preview beside a function that does the same for every event; see `function.py`. Gone when this is dropped.
pub(crate) struct Alternative(PathBuf);

impl Alternative {
    pub(crate) fn new(does: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("preview-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let function = folder.join("redirect");
        fs::write(&function, include_str!("function.py").replace("@@DOES@@", does)).unwrap();
        fs::set_permissions(&function, fs::Permissions::from_mode(0o755)).unwrap();
        fs::hard_link(env!("CARGO_BIN_EXE_preview"), folder.join("preview")).unwrap();
        Self(folder)
    }

    pub(crate) fn preview(&self) -> PathBuf {
        self.0.join("preview")
    }
}

impl Drop for Alternative {
    fn drop(&mut self) {
        // It holds a link to a large binary.
        let _ = fs::remove_dir_all(&self.0);
    }
}
