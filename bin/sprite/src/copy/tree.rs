//! Copies directories: `tar` in the sprite at one end of a session, ours at the other.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use sprite_client::SpriteClient;
use sprite_client::exec::{Event, ExecRequest, Session, SessionOutput};
use tokio::sync::mpsc;

use crate::output::{clean, talk};
use crate::report::WithHint;

use super::location::{remote_join, remote_name};
use super::progress::Progress;
use super::remote::{Kind, stat};
use super::{Options, pack, unpack};

/// Makes the directory and unpacks into it. GNU tar alone must be told to keep links to
/// directories.
const UNPACK: &str = "set -e
if [ -n \"$2\" ]; then mkdir -p -- \"$1\"; elif ! [ -d \"$1\" ]; then mkdir -- \"$1\"; fi
cd -- \"$1\"
keep=
if tar --version 2>/dev/null | grep -q GNU; then keep=--keep-directory-symlink; fi
exec tar -x -p $keep -f -";
const PACK: &str = "cd -- \"$1\" && exec tar -c -f - .";
/// Most of tar's error output that is kept, in bytes.
const STDERR_BYTES_MAX: usize = 4096;
/// Pieces of an archive on their way, at most.
const QUEUE: usize = 8;

fn script(text: &str, arguments: &[&str], stdin: bool) -> ExecRequest {
    let shell = ["sh", "-c", text, "sprite-cp"];
    let argv = shell.iter().chain(arguments);
    ExecRequest {
        argv: argv.map(|&word| word.to_owned()).collect(),
        stdin,
        ..ExecRequest::default()
    }
}

pub(super) async fn push(
    sprite: &SpriteClient,
    source: &Path,
    dest: &str,
    options: Options,
) -> anyhow::Result<()> {
    // `.` and `..` have no name: their content goes to the destination itself.
    let name = match source.file_name() {
        Some(name) if !source.to_string_lossy().ends_with("/.") => {
            Some(name.to_str().context("the name of the directory is not text")?)
        }
        _ => None,
    };
    let target = match (stat(sprite, dest).await?, name) {
        (Kind::File(_), _) => bail!("`{dest}` is a file in `{}`", sprite.name()),
        (Kind::Directory, Some(name)) => {
            let target = remote_join(dest, name);
            if let Kind::File(_) = stat(sprite, &target).await? {
                bail!("`{target}` is a file in `{}`", sprite.name());
            }
            target
        }
        (Kind::Directory | Kind::Missing, _) => dest.to_owned(),
    };
    let parents = if options.parents { "yes" } else { "" };
    let session = sprite.exec(&script(UNPACK, &[&target, parents], true)).await?;

    let plan = pack::plan(source).with_context(|| format!("read `{}`", source.display()))?;
    for skipped in &plan.skipped {
        talk!("Not copied (neither file, directory nor link): {}", skipped.display());
    }
    let progress = Progress::start(name.unwrap_or("."), Some(plan.bytes));
    let (sender, mut archive) = mpsc::channel::<Bytes>(QUEUE);
    let root = source.to_owned();
    let packing = tokio::task::spawn_blocking(move || pack::pack(&root, &plan, sender));

    let Session { mut input, mut output } = session;
    let sending = tokio::spawn(async move {
        while let Some(data) = archive.recv().await {
            progress.add(data.len());
            if input.stdin(data).await.is_err() {
                // The other half of the connection says why.
                break;
            }
        }
        let _ = input.end_stdin().await;
        // Closing now would end the command.
        input
    });
    let ended = wait(&mut output).await?;
    let packed = packing.await.context("pack the directory");
    drop(sending.await);
    check(&ended, sprite)?;
    packed?.with_context(|| format!("read `{}`", source.display()))
}

pub(super) async fn pull(
    sprite: &SpriteClient,
    source: &str,
    dest: &Path,
    options: Options,
) -> anyhow::Result<()> {
    let target = local_target(source, dest)?;
    let made = if options.parents {
        std::fs::create_dir_all(&target)
    } else if target.is_dir() {
        Ok(())
    } else {
        std::fs::create_dir(&target)
    };
    made.with_context(|| format!("create `{}`", target.display()))?;

    let session = sprite.exec(&script(PACK, &[source], false)).await?;
    let progress = Progress::start(remote_name(source).unwrap_or(source), None);
    let (sender, archive) = mpsc::channel::<Bytes>(QUEUE);
    let root = target.clone();
    let unpacking = tokio::task::spawn_blocking(move || unpack::unpack(&root, archive));

    // The sending half stays open until the command has ended.
    let Session { input, mut output } = session;
    let mut ended = Ended::default();
    while let Some(event) = output.next().await? {
        match event {
            Event::Stdout(data) => {
                progress.add(data.len());
                if sender.send(data).await.is_err() {
                    break;
                }
            }
            event => ended.take(event),
        }
    }
    drop((sender, input));
    let unpacked = unpacking.await.context("unpack the directory")?;
    drop(progress);
    let unpacked = unpacked.with_context(|| format!("write to `{}`", target.display()))?;
    for skipped in unpacked.skipped {
        talk!("Not copied (neither file, directory nor link): {}", clean(&skipped));
    }
    if ended.code == Some(1) {
        // GNU tar: something changed while it was read.
        talk!("Warning: {}", ended.last_line());
        return Ok(());
    }
    check(&ended, sprite)
}

/// Decides where a directory goes: into `dest` if that is one, else to `dest`.
fn local_target(source: &str, dest: &Path) -> anyhow::Result<PathBuf> {
    let target = match remote_name(source) {
        Some(name) if dest.is_dir() => dest.join(name),
        _ => dest.to_owned(),
    };
    if target.exists() && !target.is_dir() {
        bail!("`{}` is a file", target.display());
    }
    Ok(target)
}

/// How tar ended.
#[derive(Default)]
struct Ended {
    code: Option<u8>,
    stderr: Vec<u8>,
}

impl Ended {
    fn take(&mut self, event: Event) {
        match event {
            Event::Exit(code) => self.code = Some(code),
            Event::Stderr(data) => {
                let room = STDERR_BYTES_MAX.saturating_sub(self.stderr.len());
                self.stderr.extend_from_slice(&data[..data.len().min(room)]);
            }
            _ => {}
        }
    }

    fn last_line(&self) -> String {
        let text = String::from_utf8_lossy(&self.stderr);
        let mut lines = text.lines().map(str::trim).filter(|line| {
            !line.is_empty() && !line.contains("Exiting with failure status due to previous errors")
        });
        clean(lines.next_back().unwrap_or("no message"))
    }
}

async fn wait(output: &mut SessionOutput) -> anyhow::Result<Ended> {
    let mut ended = Ended::default();
    while let Some(event) = output.next().await? {
        ended.take(event);
    }
    Ok(ended)
}

fn check(ended: &Ended, sprite: &SpriteClient) -> anyhow::Result<()> {
    match ended.code {
        Some(0) => Ok(()),
        Some(127) => Err(anyhow!("sprite `{}` has no tar", sprite.name()))
            .hint("install tar there; single files are copied without it"),
        _ => Err(anyhow!("copy in `{}`: {}", sprite.name(), ended.last_line())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_telling_line_of_tar_is_shown() {
        let stderr = b"tar: ./a: Cannot open: Permission denied\n\
            tar: Exiting with failure status due to previous errors\n"
            .to_vec();
        let ended = Ended { code: Some(2), stderr };
        assert_eq!(ended.last_line(), "tar: ./a: Cannot open: Permission denied");
        assert_eq!(Ended::default().last_line(), "no message");
    }

    #[test]
    fn a_directory_goes_into_a_directory_but_never_replaces_a_file() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(local_target("/a/b", dir.path()).unwrap(), dir.path().join("b"));
        assert_eq!(local_target("/", dir.path()).unwrap(), dir.path());
        std::fs::write(dir.path().join("b"), "").unwrap();
        assert!(local_target("/a/b", dir.path()).is_err());
    }
}
