//! Choosing a directory's sprite.

use sprite_types::SpriteName;

use crate::args::UseArgs;
use crate::config::{Project, ProjectFile};
use crate::context::Context;
use crate::output::{out, success, talk};
use crate::prompt;
use crate::report::{Exit, Usage};

pub(super) async fn run(context: &Context, args: UseArgs) -> anyhow::Result<Exit> {
    if args.unset {
        return unset(context);
    }
    let connection = context.connect()?;
    let name = match args.name.or_else(|| context.global.sprite.clone()) {
        Some(name) => name,
        None if prompt::is_interactive() => context.pick(&connection).await?,
        None => return Err(Usage("which sprite? `sprite use <name>`".to_owned()).into()),
    };
    let name: SpriteName = name.parse()?;
    let sprite = connection.client.sprite(name.as_str()).get().await?;
    let org = Some(sprite.organization).filter(|org| !org.is_empty()).or(connection.org);
    let project = Project { org, sprite: Some(sprite.name) };
    let path = ProjectFile::write(&context.dir, &project)?;
    success(&format!("Using sprite {name} in {}", context.dir.display()))?;
    talk!("Written to {}; `sprite use --unset` removes it.", path.display());
    Ok(Exit::SUCCESS)
}

fn unset(context: &Context) -> anyhow::Result<Exit> {
    match context.project()? {
        Some(file) => {
            file.remove()?;
            success(&format!("Removed {}", file.path.display()))?;
        }
        None => out!("There is no .sprite file here.")?,
    }
    Ok(Exit::SUCCESS)
}
