//! `sprited image …`: works on the host's images directly; they have a lock of their own.

use std::process::ExitCode;

use anyhow::{Context, bail};
use sprite_image::{Image, ImportFrom, Progress};

use super::print_table;
use crate::cli::ImageCommand;
use crate::config::Config;
use crate::image::{ensure, images, recipe};

fn report(progress: Progress) {
    eprintln!("{progress}");
}

pub(crate) async fn image(config: &Config, command: ImageCommand) -> anyhow::Result<ExitCode> {
    tokio::select! {
        biased;
        // Dropping what is under way ends it and waits until nothing is left of it.
        _ = tokio::signal::ctrl_c() => bail!("interrupted; no image was made or removed"),
        result = run(config, command) => result,
    }
}

async fn run(config: &Config, command: ImageCommand) -> anyhow::Result<ExitCode> {
    let config = &config.image;
    match command {
        ImageCommand::Build { rebuild } => {
            let image = match (rebuild, recipe(config)?) {
                (true, Some(recipe)) => images(config)?.rebuild(recipe, report).await?,
                (true, None) => bail!("`{}` was imported; import it again", config.name),
                (false, _) => ensure(config, report).await?,
            };
            println!("{}", image.id);
        }
        ImageCommand::Import { from, name } => {
            let kind =
                std::fs::metadata(&from).with_context(|| format!("import `{}`", from.display()))?;
            let from =
                if kind.is_dir() { ImportFrom::OciLayout(from) } else { ImportFrom::Tarball(from) };
            let image = images(config)?.import(from, name, report).await?;
            println!("{}", image.id);
        }
        ImageCommand::List { json } => {
            let found = images(config)?.list()?;
            if json {
                let entries: Vec<_> = found.iter().map(entry).collect();
                println!("{}", serde_json::to_string_pretty(&entries)?);
            } else {
                let row = |image: &Image| {
                    let created = image.created_at.rfc3339();
                    vec![
                        image.id.to_string(),
                        image.name.clone(),
                        created,
                        image.allocated.to_string(),
                    ]
                };
                let rows: Vec<_> = found.iter().map(row).collect();
                print_table(&["ID", "NAME", "CREATED", "SIZE"], &rows);
            }
        }
        ImageCommand::Remove { image } => {
            let images = images(config)?;
            let found = images.find(&image)?;
            images.remove(&found.id).await?;
            eprintln!("Removed {} ({}).", found.id, found.name);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn entry(image: &Image) -> serde_json::Value {
    serde_json::json!({
        "id": image.id,
        "name": image.name,
        "path": image.path,
        "created_at": image.created_at.rfc3339(),
        "origin": image.origin,
        "size_bytes": image.size.0,
        "allocated_bytes": image.allocated.0,
    })
}
