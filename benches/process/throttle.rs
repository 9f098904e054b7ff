//! A share of a CPU as Lambda gives it to a function of 128 MB: a sixteenth of what 1,769 MB get, about 7 %.
//! <https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html>

use crate::Result;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// 1.4 ms in every 20 ms.
const PERIOD_US: u32 = 20_000;
const QUOTA_US: u32 = 1_400;

/// A control group with that share; removed when this is dropped.
pub(crate) struct Throttle(PathBuf);

impl Throttle {
    /// Needs a machine that lets this process make control groups, of version 1 or 2.
    pub(crate) fn new() -> Result<Self> {
        let name = format!("redirect-bench-{}", std::process::id());
        let first = Path::new("/sys/fs/cgroup/cpu");
        let is_first = first.exists();
        let folder = if is_first { first } else { Path::new("/sys/fs/cgroup") }.join(name);
        fs::create_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let throttle = Self(folder);
        if is_first {
            throttle.set("cpu.cfs_period_us", &PERIOD_US.to_string())?;
            throttle.set("cpu.cfs_quota_us", &QUOTA_US.to_string())?;
        } else {
            throttle.set("cpu.max", &format!("{QUOTA_US} {PERIOD_US}"))?;
        }
        Ok(throttle)
    }

    fn set(&self, file: &str, value: &str) -> Result<()> {
        let path = self.0.join(file);
        fs::write(&path, value).map_err(|error| format!("{}: {error}", path.display()).into())
    }

    /// Puts the process that the command starts into the group before anything of it runs.
    pub(crate) fn apply_to(&self, command: &mut Command) -> Result<()> {
        let mut members = File::options().write(true).open(self.0.join("cgroup.procs"))?;
        // SAFETY: between fork and exec it only writes to an open descriptor. "0" is the writing process itself.
        unsafe { command.pre_exec(move || members.write_all(b"0")) };
        Ok(())
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        // Empty by now: every subject was waited for.
        let _ = fs::remove_dir(&self.0);
    }
}
