//! Runs the build script and turns what it says into progress and errors.
//!
//! The script runs in a mount and process namespace of its own. It ends with this process,
//! however that ends: the starter of the namespace asks the kernel for a kill when its parent
//! dies, and takes the namespace's every process and mount along.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use sprite_types::ByteSize;

use crate::error::ImageError;
use crate::progress::Steps;
use crate::recipe::{BUILD_SCRIPT, NODE_MAJOR, Recipe, Variant, memory_available};
use crate::{apt, mkfs, overlay, packages, registries};

/// How often a build looks whether it should stop.
const POLL: Duration = Duration::from_millis(100);
/// Where the programs of a build are.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Lines of the log that an error shows.
const TAIL_LINES: usize = 12;

/// Programs that the build starts, and the packages that bring them.
const PROGRAMS: [(&str, &str); 6] = [
    ("mmdebstrap", "mmdebstrap"),
    ("debugfs", "e2fsprogs"),
    ("mkfs.ext4", "e2fsprogs"),
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
    ("tar", "tar"),
];

/// Where a build works and how it is watched.
pub(crate) struct Job<'a> {
    /// A folder of its own; the caller removes it.
    pub(crate) work: &'a Path,
    /// The ext4 file to write.
    pub(crate) out: &'a Path,
    /// Where the log goes if the build fails.
    pub(crate) failed_log: &'a Path,
    pub(crate) steps: &'a mut Steps,
    pub(crate) cancel: &'a AtomicBool,
    /// Seconds since 1970.
    pub(crate) now: u64,
}

/// Builds an image as the recipe says.
pub(crate) fn build(recipe: &Recipe, job: Job<'_>) -> Result<(), ImageError> {
    if !rustix::process::geteuid().is_root() {
        return Err(ImageError::NotRoot);
    }
    for (program, package) in PROGRAMS {
        find_program(program, package)?;
    }
    prepare(recipe, job.work, job.now)?;
    let log_path = job.work.join("build.log");
    let log = File::create(&log_path).map_err(|e| ImageError::io("write the build's log", e))?;
    let mut command = command(recipe, job.work, job.out)?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|source| ImageError::io("start the build", source))?;
    let (send, lines) = mpsc::channel();
    let stdout = child.stdout.take().expect("it was asked for above");
    // Ends with the last process that holds the pipe, so with the whole namespace.
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    let mut failed = None;
    let mut cancelled = false;
    loop {
        match lines.recv_timeout(POLL) {
            Ok(line) => {
                if let Some(step) = line.strip_prefix("step ") {
                    job.steps.begin(step);
                } else if let Some(command) = line.strip_prefix("fail ") {
                    failed.get_or_insert_with(|| command.chars().take(300).collect::<String>());
                }
            }
            Err(RecvTimeoutError::Timeout) => job.steps.tick(),
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if !cancelled && job.cancel.load(Ordering::Relaxed) {
            cancelled = true;
            let _ = child.kill();
        }
    }
    let _ = reader.join();
    let status = child.wait().map_err(|source| ImageError::io("wait for the build", source))?;
    if cancelled {
        return Err(ImageError::Cancelled);
    }
    if status.success() && failed.is_none() {
        job.steps.end();
        return Ok(());
    }
    let log = fs::read(&log_path).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let kept = fs::copy(&log_path, job.failed_log).map(|_| job.failed_log.to_owned());
    Err(ImageError::Step {
        step: job.steps.current().to_owned(),
        command: failed.unwrap_or_else(|| format!("build script ({status})")),
        hint: hint(&log).to_owned(),
        tail: tail(&log),
        log: kept.unwrap_or(log_path),
    })
}

/// Writes what the script reads.
fn prepare(recipe: &Recipe, work: &Path, now: u64) -> Result<(), ImageError> {
    let apt = apt::of_host(&recipe.distribution)?;
    let bundle = work.join("ca-bundle.pem");
    let mut settings = apt.settings;
    if !recipe.certificates.is_empty() {
        settings.push(format!("Acquire::https::CaInfo \"{}\";", bundle.display()));
    }
    let write = |name: &str, text: &[u8]| {
        fs::write(work.join(name), text)
            .map_err(|source| ImageError::io(format!("write `{name}` for the build"), source))
    };
    write("build.sh", BUILD_SCRIPT.as_bytes())?;
    write("sources.list", apt.sources.as_bytes())?;
    write("apt.conf", (settings.join("\n") + "\n").trim_start().as_bytes())?;
    write("ca-bundle.pem", recipe.certificates.bundle().as_bytes())?;
    let overlay = overlay::archive(&recipe.version(), now)
        .map_err(|source| ImageError::io("pack our files", source))?;
    write("overlay.tar", &overlay)?;
    fs::create_dir_all(work.join("extra-ca"))
        .map_err(|source| ImageError::io("make a folder for the build", source))?;
    for (number, pem) in recipe.certificates.pem().enumerate() {
        write(&format!("extra-ca/host-{number:02}.crt"), pem.as_bytes())?;
    }
    Ok(())
}

fn command(recipe: &Recipe, work: &Path, out: &Path) -> Result<Command, ImageError> {
    // Unpacking thousands of small files into memory spares a slow disk; the headroom is for
    // what else the host does.
    let needs = match recipe.variant {
        Variant::Minimal => ByteSize::gib(2),
        Variant::Devtools => ByteSize::gib(12),
    };
    let available =
        memory_available().map_err(|source| ImageError::io("read `/proc/meminfo`", source))?;
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"])
        .args(["--pid", "--fork", "--kill-child", "--mount-proc", "bash"])
        .arg(work.join("build.sh"))
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", "/root")
        .env("LC_ALL", "C.UTF-8")
        .env("TMPDIR", work)
        .env("WORK", work)
        .env("OUT", out)
        .env("SUITE", &recipe.distribution.codename)
        .env("VARIANT", recipe.variant.to_string())
        .env("PACKAGES", packages::packages(&recipe.distribution, recipe.variant).join(","))
        .env("NPM_PACKAGES", packages::npm_packages(recipe.variant).join(" "))
        .env("IMAGE_BYTES", recipe.size.0.to_string())
        .env("MKFS_FEATURES", mkfs::FEATURES)
        .env("ROOT_FIELDS", mkfs::ROOT_FIELDS)
        .env("NODE_MAJOR", NODE_MAJOR.to_string())
        .env("CA_IN_IMAGE", if recipe.certificates_in_image { "yes" } else { "no" })
        .env("TMPFS", if available >= needs { "yes" } else { "no" })
        .envs(registries::of_host(|name| std::env::var(name).ok()));
    Ok(command)
}

/// Finds a program on the paths of a build.
pub(crate) fn find_program(
    program: &'static str,
    package: &'static str,
) -> Result<PathBuf, ImageError> {
    PATH.split(':')
        .map(|dir| Path::new(dir).join(program))
        .find(|path| path.is_file())
        .ok_or(ImageError::Program { program, package })
}

/// Says what to do about a failure, by what is in its log.
fn hint(log: &str) -> &'static str {
    let known: [(&[&str], &str); 5] = [
        (&["No space left on device"], "the disk is full: free some space and try again"),
        (
            &[
                "certificate verify failed",
                "SELF_SIGNED_CERT",
                "self-signed certificate",
                "certificate is not trusted",
            ],
            "a proxy re-signs TLS here: pass its certificate with `--ca-file FILE`",
        ),
        (
            &[
                "Temporary failure resolving",
                "Could not resolve",
                "Name or service not known",
                "Temporary failure in name resolution",
                "Network is unreachable",
                "Could not connect to",
                "Connection timed out",
            ],
            "the network or the mirror did not answer: check `apt-get update` and `pip download uv` on this host",
        ),
        (
            &["NO_PUBKEY", "EXPKEYSIG", "is not signed", "The following signatures"],
            "the archive's signature was refused: update the keyring package (`apt-get install --only-upgrade debian-archive-keyring` or `ubuntu-keyring`)",
        ),
        (
            &["Unable to locate package", "No matching distribution found", "404  Not Found"],
            "something to install was not found: check the host's apt sources and pip's index",
        ),
    ];
    known
        .iter()
        .find(|(words, _)| words.iter().any(|word| log.contains(word)))
        .map_or("its last lines follow", |(_, hint)| hint)
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let from = lines.len().saturating_sub(TAIL_LINES);
    let text: Vec<String> = lines[from..]
        .iter()
        .map(|line| format!("  | {}", line.chars().take(300).collect::<String>()))
        .collect();
    text.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_failure_comes_with_what_to_do() {
        assert!(hint("x\nSSL: certificate verify failed: y").contains("--ca-file"));
        assert!(hint("tar: write: No space left on device").contains("full"));
        assert!(hint("something new").contains("last lines"));
    }

    #[test]
    fn the_tail_of_a_log_is_short() {
        let log: String = (0..100).map(|n| format!("line {n}\n\n")).collect();
        let tail = tail(&log);
        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert!(tail.ends_with("line 99"), "{tail}");
    }
}
