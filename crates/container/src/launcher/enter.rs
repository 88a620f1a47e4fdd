//! Entering the container: what a child of the launcher does before it is a command.
//!
//! The launcher forks first and the child enters afterwards, so that no trusted process ever has
//! a foot in the container. The child was born in the container's pid namespace, where its
//! processes can see it; it cannot be looked into, because the launcher is not dumpable and its
//! memory belongs to the host's user namespace until exec.

use std::ffi::CString;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{Gid, ThreadNameSpaceType, Uid};
use serde::{Deserialize, Serialize};

use super::HelperFn;
use crate::account::Account;
use crate::cgroup::Leaf;
use crate::error::SpawnError;
use crate::lookup::{self, DEFAULT_PATH};
use crate::message::{Entered, SpawnCall};
use crate::spec::User;
use crate::sys::{self, Instruction};

/// What every way in needs.
pub(super) struct Entrance<'launcher> {
    /// The container's init.
    pub(super) init: &'launcher OwnedFd,
    pub(super) leaf: &'launcher Leaf<'launcher>,
    /// Whether the child was cloned into its cgroup2 leaf.
    pub(super) born_in_leaf: bool,
    pub(super) filter: &'launcher [Instruction],
    /// Where to report; closed by exec.
    pub(super) report: OwnedFd,
}

/// What the child tells the launcher, one JSON line each. A pipe that ends after `Entered`
/// says that the command runs.
#[derive(Serialize, Deserialize)]
pub(super) enum Report {
    Entered(Entered),
    Failed(SpawnError),
}

/// Becomes the command. Never returns.
pub(super) fn command(entrance: Entrance, call: &SpawnCall, streams: Vec<OwnedFd>) -> ! {
    finish(entrance, |entrance| {
        let account = enter(entrance, call.user)?;
        connect(&account, call, streams).map_err(internal("connect standard streams"))?;
        drop_rights(entrance, &account)?;
        let directory = change_directory(&account, call.dir.as_deref())?;
        execute(entrance, call, &account, directory)
    })
}

/// Becomes a helper. Never returns.
pub(super) fn helper(entrance: Entrance, user: User, function: HelperFn, argument: OwnedFd) -> ! {
    finish(entrance, |entrance| {
        let account = enter(entrance, user)?;
        drop_rights(entrance, &account)?;
        // Changing ids made it dumpable again where the host says so (`fs.suid_dumpable`).
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .map_err(internal("close the helper to tracers"))?;
        let dir = change_directory(&account, None)?;
        let inner_pid = rustix::process::getpid().as_raw_nonzero().get();
        report(entrance, &Report::Entered(Entered { inner_pid, program: String::new(), dir }));
        let keep = argument.as_raw_fd();
        sys::close_range(3, keep - 1);
        sys::close_range(keep + 1, i32::MAX);
        sys::exit(function(argument))
    })
}

/// Runs the steps; they only come back with what went wrong.
fn finish(
    entrance: Entrance,
    steps: impl FnOnce(&Entrance) -> Result<std::convert::Infallible, SpawnError>,
) -> ! {
    let result = catch_unwind(AssertUnwindSafe(|| {
        let Err(error) = steps(&entrance);
        report(&entrance, &Report::Failed(error));
    }));
    sys::exit(if result.is_ok() { 111 } else { 112 });
}

fn report(entrance: &Entrance, report: &Report) {
    let mut line = serde_json::to_vec(report).expect("reports are plain data");
    line.push(b'\n');
    // A pipe holds 64 KiB, so this never waits for the launcher. Should it be gone, so are we.
    if let Ok(pipe) = entrance.report.try_clone() {
        let _ = std::fs::File::from(pipe).write_all(&line);
    }
}

fn internal<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> SpawnError {
    move |error| SpawnError::Internal { message: format!("{step}: {}", error.into()) }
}

/// Moves into the container and becomes its root, for a moment.
fn enter(entrance: &Entrance, user: User) -> Result<Account, SpawnError> {
    sys::reset_signals();
    rustix::process::setsid().map_err(internal("start a session"))?;
    silence().map_err(internal("open the null device"))?;
    set_limits();
    entrance.leaf.join(entrance.born_in_leaf).map_err(internal("join the control group"))?;
    // The pid and time namespaces we were born into.
    let namespaces = ThreadNameSpaceType::USER
        | ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::CONTROL_GROUP;
    rustix::thread::move_into_thread_name_spaces(entrance.init.as_fd(), namespaces).map_err(
        |error| match error {
            rustix::io::Errno::SRCH => SpawnError::Gone,
            error => internal("enter the container")(error),
        },
    )?;
    become_user(&[], 0, 0).map_err(internal("become the container's root"))?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(internal("close the process to tracers"))?;
    Ok(Account::load(user))
}

fn become_user(groups: &[u32], uid: u32, gid: u32) -> rustix::io::Result<()> {
    let groups: Vec<Gid> = groups.iter().map(|id| Gid::from_raw(*id)).collect();
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::thread::set_thread_groups(&groups)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

/// Puts the null device in place of the launcher's standard streams. It is the one of the
/// launcher's work directory, so it is what it says whatever the container did to its own.
fn silence() -> rustix::io::Result<()> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let null = rustix::fs::openat(CWD, "dev/null", flags, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)
}

/// Sets the same resource limits however sprited was started. Done before entering, since
/// raising them needs rights on the host; where the host withholds those, they stay lower.
fn set_limits() {
    const UNLIMITED: Option<u64> = None;
    let limits = [
        (Resource::Nofile, Some(65_536), Some(1 << 20)),
        // Not zero: one byte also keeps the kernel from piping a dump to a program of the host.
        (Resource::Core, Some(1), Some(1)),
        (Resource::Memlock, Some(8 << 20), Some(8 << 20)),
        (Resource::Stack, Some(8 << 20), UNLIMITED),
        // Counted by the process limit of the machine's control group.
        (Resource::Nproc, UNLIMITED, UNLIMITED),
        (Resource::Fsize, UNLIMITED, UNLIMITED),
        (Resource::Data, UNLIMITED, UNLIMITED),
        (Resource::As, UNLIMITED, UNLIMITED),
        (Resource::Cpu, UNLIMITED, UNLIMITED),
        (Resource::Nice, Some(0), Some(0)),
        (Resource::Rtprio, Some(0), Some(0)),
    ];
    for (resource, current, maximum) in limits {
        if setrlimit(resource, Rlimit { current, maximum }).is_err() {
            let maximum = getrlimit(resource).maximum;
            let current = current.map_or(maximum, |want| Some(want.min(maximum.unwrap_or(want))));
            let _ = setrlimit(resource, Rlimit { current, maximum });
        }
    }
    // A protection that sprited may enjoy is not for its guests. They cannot lower it again.
    if std::fs::read_to_string("/proc/self/oom_score_adj").is_ok_and(|text| text.trim() != "0") {
        let _ = std::fs::write("/proc/self/oom_score_adj", "0");
    }
}

/// Puts the streams in place: 0, 1 and 2, and for a terminal the controlling one.
fn connect(account: &Account, call: &SpawnCall, streams: Vec<OwnedFd>) -> io::Result<()> {
    let mut streams = streams.into_iter();
    let mut next = || streams.next().ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF));
    if call.terminal {
        let terminal = next()?;
        rustix::fs::fchown(&terminal, Some(rustix::fs::Uid::from_raw(account.uid)), None)?;
        rustix::process::ioctl_tiocsctty(&terminal)?;
        rustix::stdio::dup2_stdin(&terminal)?;
        rustix::stdio::dup2_stdout(&terminal)?;
        rustix::stdio::dup2_stderr(&terminal)?;
        return Ok(());
    }
    // Opening `/dev/stderr` and the like opens the pipe anew, with the user's rights.
    let mut next = || -> io::Result<OwnedFd> {
        let pipe = next()?;
        rustix::fs::fchown(&pipe, Some(rustix::fs::Uid::from_raw(account.uid)), None)?;
        Ok(pipe)
    };
    if call.stdin {
        rustix::stdio::dup2_stdin(next()?)?;
    } else if let Ok(null) = own_null_device() {
        rustix::stdio::dup2_stdin(null)?;
    }
    rustix::stdio::dup2_stdout(next()?)?;
    rustix::stdio::dup2_stderr(next()?)?;
    Ok(())
}

/// Opens the container's own null device, whose path is not one of the host. Anything else that
/// was put in its place is left alone.
fn own_null_device() -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW;
    let null = rustix::fs::openat(CWD, "/dev/null", flags | OFlags::CLOEXEC, Mode::empty())?;
    let stat = rustix::fs::fstat(&null)?;
    let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    if !is_device || stat.st_rdev != rustix::fs::makedev(1, 3) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    rustix::fs::fcntl_setfl(&null, OFlags::empty())?;
    Ok(null)
}

/// Gives up everything but what the user has.
fn drop_rights(entrance: &Entrance, account: &Account) -> Result<(), SpawnError> {
    sys::close_on_exec_from(3).map_err(internal("close descriptors"))?;
    // Needs the rights that the next step gives up.
    sys::install_filter(entrance.filter).map_err(internal("install the system call filter"))?;
    become_user(&account.groups, account.uid, account.gid)
        .map_err(internal("become the command's user"))
}

fn change_directory(account: &Account, wanted: Option<&str>) -> Result<String, SpawnError> {
    let at_home = rustix::process::chdir(account.home.as_str()).is_ok();
    let start = if at_home { account.home.as_str() } else { "/" };
    if !at_home {
        rustix::process::chdir("/").map_err(internal("enter the root directory"))?;
    }
    let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) else {
        return Ok(start.to_owned());
    };
    rustix::process::chdir(wanted)
        .map_err(|error| lookup::directory_error(wanted, &error.into()))?;
    let joined = std::path::Path::new(start).join(wanted);
    Ok(joined.to_string_lossy().into_owned())
}

/// Executes the command.
fn execute(
    entrance: &Entrance,
    call: &SpawnCall,
    account: &Account,
    dir: String,
) -> Result<std::convert::Infallible, SpawnError> {
    let env = environment(&call.env, account);
    let path = env.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_str());
    let name = call.path.as_deref().or(call.argv.first().map(String::as_str)).unwrap_or_default();
    let program = lookup::find_program(name, path.unwrap_or(DEFAULT_PATH))?;

    let invalid = |_| SpawnError::NotExecutable {
        message: format!("{name}: arguments and variables cannot contain a null byte"),
    };
    let file = CString::new(program.as_str()).map_err(invalid)?;
    let argv = if call.argv.is_empty() { vec![name.to_owned()] } else { call.argv.clone() };
    let argv: Vec<CString> =
        argv.into_iter().map(CString::new).collect::<Result<_, _>>().map_err(invalid)?;
    let variables = env.iter().map(|(name, value)| CString::new(format!("{name}={value}")));
    let variables: Vec<CString> = variables.collect::<Result<_, _>>().map_err(invalid)?;

    let inner_pid = rustix::process::getpid().as_raw_nonzero().get();
    report(entrance, &Report::Entered(Entered { inner_pid, program: program.clone(), dir }));
    let error = sys::execve(&file, &argv, &variables);
    Err(lookup::exec_error(&program, &error))
}

/// Completes the environment with what the container knows about the user. Of equal names the
/// last counts.
fn environment(given: &[(String, String)], account: &Account) -> Vec<(String, String)> {
    let known = [
        ("HOME", &account.home),
        ("USER", &account.name),
        ("LOGNAME", &account.name),
        ("SHELL", &account.shell),
    ];
    let known = known.into_iter().map(|(name, value)| (name.to_owned(), value.clone()));
    let mut index = std::collections::HashMap::new();
    let mut env: Vec<(String, String)> = Vec::new();
    for (name, value) in known.chain(given.iter().cloned()) {
        match index.get(&name) {
            Some(&at) => env[at] = (name, value),
            None => {
                index.insert(name.clone(), env.len());
                env.push((name, value));
            }
        }
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Account {
        Account {
            uid: 1001,
            gid: 1001,
            groups: vec![1001],
            name: "sprite".into(),
            home: "/home/sprite".into(),
            shell: "/bin/bash".into(),
        }
    }

    #[test]
    fn what_the_caller_gives_wins_and_the_last_of_equals_counts() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let given = [pair("A", "1"), pair("HOME", "/x"), pair("A", "2")];
        let env = environment(&given, &account());
        assert!(env.contains(&pair("HOME", "/x")));
        assert!(env.contains(&pair("SHELL", "/bin/bash")));
        let values: Vec<_> = env.iter().filter(|(name, _)| name == "A").collect();
        assert_eq!(values, [&pair("A", "2")]);
    }
}
