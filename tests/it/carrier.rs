//! The package's two parts, under AWS's own runtime client for Python, as on Lambda@Edge.
//!
//! Needs `.tools/test/bin/python` with `awslambdaric`, which `just test` installs.

use crate::setup::{KEY, World, event, events, flag, launchdarkly};
use standins::{Function, RuntimeApi, lambda_environment};
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// A folder with the carrier, like an unpacked package.
fn task_root(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root).unwrap();
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/carrier/carrier.py"), root.join("carrier.py")).unwrap();
    root
}

/// The managed Python runtime: its bootstrap starts the runtime client with the handler's name.
fn managed_python(lambda: &RuntimeApi, root: &Path, settings: &[(&str, &str)]) -> Function {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/test/bin/python");
    assert!(python.exists(), "{} is missing: run the tests with `just test`", python.display());
    let mut command = Command::new(python);
    command.args(["-B", "-m", "awslambdaric", "carrier.handler"]).current_dir(root).env_clear();
    command.envs(lambda_environment(lambda)).envs(settings.iter().copied());
    // The same as LoggingConfig in cloudformation/edge.yaml.
    command.env("AWS_LAMBDA_LOG_FORMAT", "JSON").env("AWS_LAMBDA_LOG_LEVEL", "INFO");
    command.env("LAMBDA_TASK_ROOT", root).env("_HANDLER", "carrier.handler");
    command.env("AWS_EXECUTION_ENV", "AWS_Lambda_python3.13").env("PYTHONPATH", root);
    Function::run(command).unwrap()
}

/// Each event of `events/` gets an answer or an error; decision.rs checks which.
async fn check_every_event(world: &mut World) {
    for path in events() {
        let answered = world.send(&fs::read_to_string(&path).unwrap()).await;
        let expected = fs::read_to_string(path.with_extension("expected")).unwrap();
        assert_eq!(answered.is_error, expected.starts_with("error"), "{}", path.display());
    }
}

#[tokio::test]
async fn the_binary_replaces_python_before_an_event_is_requested() {
    let root = task_root("carrier-good");
    fs::copy(env!("CARGO_BIN_EXE_redirect"), root.join("redirect")).unwrap();
    let launchdarkly = launchdarkly(flag(1, true)).await;
    let lambda = RuntimeApi::start().await.unwrap();
    let uri = launchdarkly.uri();
    let settings = [("LAUNCHDARKLY_SDK_KEY", KEY), ("LAUNCHDARKLY_BASE_URI", &uri), ("LAUNCHDARKLY_EVENTS_URI", &uri)];
    let function = managed_python(&lambda, &root, &settings);
    let mut world = World { lambda, launchdarkly, function };

    assert_eq!(world.visit("/a", "192.0.2.1").await.summary(), "302 /site/beta/a");
    check_every_event(&mut world).await;
    for agent in world.lambda.user_agents() {
        assert!(agent.starts_with("aws-lambda-rust/"), "{agent} requested an event");
    }
}

/// The package of `just package`, unpacked as on Lambda, with only the environment variables that Lambda@Edge sets: it
/// cannot reach LaunchDarkly, and decides from the flag data in the package.
#[tokio::test]
async fn the_package_answers_every_event() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/edge/redirect.zip");
    assert!(package.exists(), "{} is missing: run the tests with `just test`", package.display());
    let root = task_root("carrier-package");
    fs::remove_file(root.join("carrier.py")).unwrap();
    // Like unzip, with the modes in the package.
    let unzip = "import os, sys, zipfile\nwith zipfile.ZipFile(sys.argv[1]) as package:\n    for member in package.infolist(): \
                 os.chmod(package.extract(member, sys.argv[2]), member.external_attr >> 16)";
    let unpacked = std::process::Command::new("python3").args(["-c", unzip]).arg(&package).arg(&root).status();
    assert!(unpacked.unwrap().success());
    let mut members: Vec<_> = fs::read_dir(&root).unwrap().map(|file| file.unwrap().file_name()).collect();
    members.sort();
    assert_eq!(members, ["carrier.py", "flags.json", "redirect"]);

    let lambda = RuntimeApi::start().await.unwrap();
    let function = managed_python(&lambda, &root, &[]);
    let mut world = World { lambda, launchdarkly: launchdarkly(flag(1, true)).await, function };
    let answered = world.visit("/a", "192.0.2.1").await;
    assert_eq!(answered.line["data"], "bundled", "{}", answered.line);
    assert_eq!(answered.line["source"], "launchdarkly");
    check_every_event(&mut world).await;
}

#[track_caller]
fn check_names(error: &str, expected: &[&str]) {
    for text in expected {
        assert!(error.contains(text), "{text:?} is not in {error}");
    }
}

async fn init_error_of(lambda: &RuntimeApi, mut function: Function) -> String {
    tokio::select! {
        biased;
        error = lambda.init_error() => error,
        status = function.process.wait() => panic!("no init error, but {status:?}: {:?}", function.log()),
    }
}

async fn init_error(root: &Path) -> String {
    let lambda = RuntimeApi::start().await.unwrap();
    let error = init_error_of(&lambda, managed_python(&lambda, root, &[])).await;
    assert!(lambda.user_agents().is_empty(), "an event was requested");
    error
}

#[tokio::test]
async fn a_missing_binary_is_an_init_error_with_its_path() {
    let root = task_root("carrier-missing");
    check_names(&init_error(&root).await, &["carrier-missing/redirect", "No such file", "just package"]);
}

#[tokio::test]
async fn a_binary_that_is_not_executable_is_an_init_error_with_its_path() {
    let root = task_root("carrier-mode");
    fs::copy(env!("CARGO_BIN_EXE_redirect"), root.join("redirect")).unwrap();
    fs::set_permissions(root.join("redirect"), fs::Permissions::from_mode(0o644)).unwrap();
    check_names(&init_error(&root).await, &["carrier-mode/redirect", "Permission denied", "executable"]);
}

#[tokio::test]
async fn a_binary_for_another_architecture_is_an_init_error_with_its_path() {
    let root = task_root("carrier-arch");
    let mut binary = fs::read(env!("CARGO_BIN_EXE_redirect")).unwrap();
    // e_machine of the ELF header: AArch64.
    binary[18..20].copy_from_slice(&183_u16.to_le_bytes());
    fs::write(root.join("redirect"), binary).unwrap();
    fs::set_permissions(root.join("redirect"), fs::Permissions::from_mode(0o755)).unwrap();
    check_names(&init_error(&root).await, &["carrier-arch/redirect", "Exec format error", "x86-64"]);
}

#[tokio::test]
async fn a_binary_that_fails_to_start_reports_the_error_to_lambda() {
    let root = task_root("carrier-start");
    fs::copy(env!("CARGO_BIN_EXE_redirect"), root.join("redirect")).unwrap();
    let lambda = RuntimeApi::start().await.unwrap();
    let function = managed_python(&lambda, &root, &[("REDIRECT_LOG", "loud")]);
    check_names(&init_error_of(&lambda, function).await, &["StartError", "REDIRECT_LOG is \\\"loud\\\""]);
    assert!(lambda.user_agents().is_empty());
}

#[tokio::test]
async fn non_blocking_standard_streams_lose_no_lines() {
    let launchdarkly = launchdarkly(flag(1, true)).await;
    let lambda = RuntimeApi::start().await.unwrap();
    let uri = launchdarkly.uri();
    // Python leaves the pipe non-blocking, the reader is slow, and there are more lines than fit into a pipe.
    let script = format!(
        "import os; [os.set_blocking(n, False) for n in (1, 2)]; os.execv({0:?}, [{0:?}])",
        env!("CARGO_BIN_EXE_redirect")
    );
    let mut command = Command::new("python3");
    command.args(["-c", &script]).env_clear().envs(lambda_environment(&lambda));
    command.env("LAUNCHDARKLY_SDK_KEY", KEY).env("LAUNCHDARKLY_BASE_URI", &uri).env("LAUNCHDARKLY_EVENTS_URI", &uri);
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let mut process = command.stdout(std::process::Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut stdout = process.stdout.take().unwrap();
    // A pipe of one page holds about ten lines.
    // SAFETY: fcntl on an open descriptor touches no memory.
    unsafe { libc::fcntl(stdout.as_raw_fd(), libc::F_SETPIPE_SZ, 4_096) };
    let visits = 300;
    let send = async {
        for number in 0..visits {
            let outcome = lambda.invoke(event(&format!("/{number}"), "192.0.2.1")).await.unwrap();
            assert!(!outcome.is_error);
        }
        // A line is written before the next event is requested.
        lambda.polled(visits + 1).await;
        process.kill().await.unwrap();
    };
    let read = async {
        // Nobody reads until the function waits for the reader, or has lost lines.
        let _ = tokio::time::timeout(Duration::from_millis(500), lambda.polled(100)).await;
        let mut log = Vec::new();
        let mut chunk = [0; 4_096];
        loop {
            match stdout.read(&mut chunk).await.unwrap() {
                0 => break String::from_utf8(log).unwrap(),
                read => log.extend_from_slice(&chunk[..read]),
            }
        }
    };
    let ((), log) = tokio::join!(send, read);
    assert_eq!(log.lines().count() as u64, visits);
    assert!(log.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{log}");
}
