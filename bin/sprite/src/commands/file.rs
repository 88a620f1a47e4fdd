//! Copying and editing files.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, anyhow, bail};
use sprite_client::SpriteClient;
use sprite_client::files::WriteOptions;

use crate::args::{CpArgs, FileCommand};
use crate::context::{Context, variable};
use crate::copy::{self, HOME, Kind, Location, Options};
use crate::output::{success, talk};
use crate::report::{Exit, INTERRUPTED, Usage, WithHint};

pub(super) async fn cp(context: &Context, args: CpArgs) -> anyhow::Result<Exit> {
    let options = Options { recursive: args.recursive, parents: args.parents };
    let (source, dest) = (copy::parse(&args.source), copy::parse(&args.dest));
    run_copy(context, source, dest, options).await
}

pub(super) async fn run(context: &Context, command: FileCommand) -> anyhow::Result<Exit> {
    let local = |path: &Path| match path.to_str() {
        Some("-") => Location::Stdio,
        _ => Location::Local(path.to_owned()),
    };
    let remote = |path: String| Location::Remote { sprite: None, path };
    match command {
        FileCommand::Push { local: from, remote: to, recursive, parents } => {
            let options = Options { recursive, parents };
            run_copy(context, local(&from), remote(to), options).await
        }
        FileCommand::Pull { remote: from, local: to, recursive } => {
            let options = Options { recursive, parents: false };
            run_copy(context, remote(from), local(&to), options).await
        }
        FileCommand::Edit { remote } => edit(context, &remote).await,
    }
}

/// Copies; Ctrl-C leaves no half-written local file.
async fn run_copy(
    context: &Context,
    source: Location,
    dest: Location,
    options: Options,
) -> anyhow::Result<Exit> {
    tokio::select! {
        copied = copy_between(context, source, dest, options) => copied.map(|()| Exit::SUCCESS),
        _ = tokio::signal::ctrl_c() => Ok(Exit(INTERRUPTED)),
    }
}

async fn copy_between(
    context: &Context,
    source: Location,
    dest: Location,
    options: Options,
) -> anyhow::Result<()> {
    use Location::{Local, Remote, Stdio};
    match (source, dest) {
        (Local(from), Remote { sprite, path }) => {
            let sprite = sprite_of(context, sprite.as_deref()).await?;
            copy::push(&sprite, &from, &path, options).await
        }
        (Stdio, Remote { sprite, path }) => {
            let sprite = sprite_of(context, sprite.as_deref()).await?;
            copy::push_from_stdin(&sprite, &path, options).await
        }
        (Remote { sprite, path }, Local(to)) => {
            let sprite = sprite_of(context, sprite.as_deref()).await?;
            copy::pull(&sprite, &path, &to, options).await
        }
        (Remote { sprite, path }, Stdio) => {
            let sprite = sprite_of(context, sprite.as_deref()).await?;
            copy::pull_to_stdout(&sprite, &path).await
        }
        (Remote { .. }, Remote { .. }) => {
            Err(Usage("both paths are in sprites".to_owned()))
                .hint("`sprite exec cp …` copies within one; between two: `sprite cp a:/x - | sprite cp - b:/x`")
        }
        (Local(_) | Stdio, Local(_) | Stdio) => Err(Usage("neither path is in a sprite".to_owned()))
            .hint("`:path` and `name:path` are: `sprite cp local.txt :/tmp/`"),
    }
}

async fn sprite_of(context: &Context, named: Option<&str>) -> anyhow::Result<SpriteClient> {
    let connection = context.connect()?;
    // A name before the colon wins over -s: it is nearer to the path.
    match named {
        Some(name) => Ok(connection.client.sprite(name)),
        None => context.sprite(&connection, None).await,
    }
}

async fn edit(context: &Context, remote: &str) -> anyhow::Result<Exit> {
    let connection = context.connect()?;
    let sprite = context.sprite(&connection, None).await?;
    let dir = tempfile::Builder::new().prefix("sprite-edit.").tempdir()?;
    let name = remote.rsplit('/').next().filter(|name| !matches!(*name, "" | "." | ".."));
    let file = dir.path().join(name.context("that path names no file")?);
    let mode = match copy::stat(&sprite, remote).await? {
        Kind::Directory => bail!("`{remote}` is a directory in `{}`", sprite.name()),
        Kind::Missing => {
            std::fs::write(&file, "")?;
            None
        }
        Kind::File(entry) => {
            copy::pull(&sprite, remote, &file, Options::default()).await?;
            sprite_api::format::parse_mode(&entry.mode)
        }
    };
    let before = std::fs::read(&file)?;
    open_editor(&file)?;
    let after = std::fs::read(&file).context("read what the editor wrote")?;
    if before == after && mode.is_some() {
        talk!("Nothing was changed.");
        return Ok(Exit::SUCCESS);
    }
    let options = WriteOptions {
        working_dir: Some(HOME.to_owned()),
        mode: mode.map(|mode| mode & 0o7777),
        length: Some(after.len() as u64),
        ..WriteOptions::default()
    };
    let content = futures::stream::iter([Ok(bytes::Bytes::from(after))]);
    if let Err(error) = sprite.write_file(remote, &options, content).await {
        // Nobody should have to type it again.
        let kept = dir.keep();
        let text = format!("your version is in {}", kept.join(name.unwrap_or("file")).display());
        return Err(error).hint(text);
    }
    success(&format!("Wrote {remote} in {}", sprite.name()))?;
    Ok(Exit::SUCCESS)
}

fn open_editor(file: &Path) -> anyhow::Result<()> {
    let editor = variable("VISUAL").or_else(|| variable("EDITOR")).unwrap_or("vi".to_owned());
    // Editors are given with arguments, such as `code --wait`.
    let status = std::process::Command::new("sh")
        .arg("-c")
        .arg(format!("{editor} \"$1\""))
        .arg("sprite")
        .arg(file)
        .stdin(Stdio::inherit())
        .status()
        .with_context(|| format!("start `{editor}`"))?;
    if status.success() {
        return Ok(());
    }
    Err(anyhow!("`{editor}` failed: {status}")).hint("EDITOR chooses another editor")
}
