//! What a machine may use.

use sprite_types::ByteSize;

use super::detect::Mode;
use super::error::CgroupError;
use super::files;
use super::machine::MachineCgroup;

/// Length of a CPU accounting period, in microseconds.
const CPU_PERIOD_US: u64 = 100_000;
/// Smallest share of a period that the kernel accepts, in microseconds.
const CPU_QUOTA_US_MIN: u64 = 1_000;

/// What a machine may use. `None` is without limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Memory, caches and tmpfs included.
    pub memory: Option<ByteSize>,
    /// Processor time, in processors: 0.5 is half of one.
    pub cpus: Option<f64>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// Makes a limit that cannot be applied an error.
    pub strict: bool,
}

/// A limit that this host cannot apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unapplied {
    /// `memory`, `cpu`, `pids` or `devices`.
    pub limit: &'static str,
    /// What is missing.
    pub reason: String,
    /// What a person can do about it.
    pub fix: String,
}

impl MachineCgroup {
    /// Sets all limits, and returns those that this host cannot apply.
    ///
    /// # Errors
    /// A controller refused a value, or `limits.strict` and one is missing.
    pub fn set_limits(&self, limits: &Limits) -> Result<Vec<Unapplied>, CgroupError> {
        let mut unapplied = Vec::new();
        let memory = limits.memory.map(|size| size.0.to_string());
        let quota = limits.cpus.map(cpu_quota_us);
        let pids = limits.pids.map(|count| count.to_string());
        let or_max = |value: &Option<String>| value.clone().unwrap_or_else(|| "max".to_owned());

        if let Some(directory) = self.v1_with("memory.limit_in_bytes") {
            let value = memory.clone().unwrap_or_else(|| "-1".to_owned());
            files::write(&directory.join("memory.limit_in_bytes"), &value)?;
        } else if let Some(directory) = self.v2_with("memory.max") {
            files::write(&directory.join("memory.max"), &or_max(&memory))?;
        } else if memory.is_some() {
            unapplied.push(self.missing("memory"));
        }

        if let Some(directory) = self.v1_with("cpu.cfs_quota_us") {
            files::write(&directory.join("cpu.cfs_period_us"), &CPU_PERIOD_US.to_string())?;
            let value = quota.map_or_else(|| "-1".to_owned(), |quota| quota.to_string());
            files::write(&directory.join("cpu.cfs_quota_us"), &value)?;
        } else if let Some(directory) = self.v2_with("cpu.max") {
            let quota = or_max(&quota.map(|quota| quota.to_string()));
            files::write(&directory.join("cpu.max"), &format!("{quota} {CPU_PERIOD_US}"))?;
        } else if quota.is_some() {
            unapplied.push(self.missing("cpu"));
        }

        if let Some(directory) = self.v1_with("pids.max").or_else(|| self.v2_with("pids.max")) {
            files::write(&directory.join("pids.max"), &or_max(&pids))?;
        } else if pids.is_some() {
            unapplied.push(self.missing("pids"));
        }

        match unapplied.first() {
            Some(Unapplied { limit, reason, fix }) if limits.strict => {
                Err(CgroupError::Unapplied { limit, reason: reason.clone(), fix: fix.clone() })
            }
            _ => Ok(unapplied),
        }
    }

    fn missing(&self, controller: &'static str) -> Unapplied {
        missing(self.mode(), controller)
    }
}

/// Explains a controller that is not there.
pub(super) fn missing(mode: Mode, controller: &'static str) -> Unapplied {
    let (reason, fix) = match mode {
        Mode::V2 if controller == "devices" => (
            "the kernel does not take programs that decide about devices".to_owned(),
            "use a kernel built with CONFIG_CGROUP_BPF".to_owned(),
        ),
        Mode::V2 => (
            format!("the `{controller}` controller is not enabled in our part of the cgroup tree"),
            format!(
                "run sprited as a systemd service with `Delegate=yes`, or as root write \
                 `+{controller}` to `/sys/fs/cgroup/cgroup.subtree_control`"
            ),
        ),
        Mode::V1 | Mode::Hybrid => (
            format!("no hierarchy with the `{controller}` controller is mounted"),
            format!(
                "mount it: `mkdir -p /sys/fs/cgroup/{controller} && mount -t cgroup -o \
                 {controller} cgroup /sys/fs/cgroup/{controller}`"
            ),
        ),
    };
    Unapplied { limit: controller, reason, fix }
}

fn cpu_quota_us(cpus: f64) -> u64 {
    // A cast saturates, and makes nonsense (negative, not a number) zero.
    ((cpus * CPU_PERIOD_US as f64) as u64).max(CPU_QUOTA_US_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_processor_counts_become_valid_quotas() {
        assert_eq!(cpu_quota_us(2.0), 200_000);
        assert_eq!(cpu_quota_us(0.25), 25_000);
        for odd in [0.0, -3.0, f64::NAN] {
            assert_eq!(cpu_quota_us(odd), CPU_QUOTA_US_MIN);
        }
    }
}
