//! The share of a CPU that Lambda gives a function by its memory: a whole one at 1,769 MB.
//! <https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html>

use crate::Result;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use tokio::process::Command;

const PERIOD_US: u32 = 20_000;
const WHOLE_CPU_MB: u32 = 1_769;

/// A control group with a function's share of a CPU; removed when this is dropped.
pub(crate) struct Throttle {
    pub(crate) memory_mb: u32,
    folder: PathBuf,
}

impl Throttle {
    /// Needs the permission to create control groups, of version 1 or 2.
    pub(crate) fn new(memory_mb: u32) -> Result<Self> {
        let name = format!("redirect-bench-{}-{memory_mb}", std::process::id());
        let first = Path::new("/sys/fs/cgroup/cpu");
        let is_first = first.exists();
        let folder = if is_first { first } else { Path::new("/sys/fs/cgroup") }.join(name);
        fs::create_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let throttle = Self { memory_mb, folder };
        let quota = PERIOD_US * memory_mb / WHOLE_CPU_MB;
        if is_first {
            throttle.set("cpu.cfs_period_us", &PERIOD_US.to_string())?;
            throttle.set("cpu.cfs_quota_us", &quota.to_string())?;
        } else {
            throttle.set("cpu.max", &format!("{quota} {PERIOD_US}"))?;
        }
        Ok(throttle)
    }

    fn set(&self, file: &str, value: &str) -> Result<()> {
        let path = self.folder.join(file);
        fs::write(&path, value).map_err(|error| format!("{}: {error}", path.display()).into())
    }

    /// Puts the command's process into the group before its program runs.
    pub(crate) fn apply_to(&self, command: &mut Command) -> Result<()> {
        let mut members = File::options().write(true).open(self.folder.join("cgroup.procs"))?;
        // SAFETY: between fork and exec it only writes to an open descriptor. "0" is the writing process itself.
        unsafe { command.pre_exec(move || members.write_all(b"0")) };
        Ok(())
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        // Empty by now: the bench has waited for every subject.
        let _ = fs::remove_dir(&self.folder);
    }
}
