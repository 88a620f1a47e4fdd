//! Destroying a sprite.

use crate::args::DestroyArgs;
use crate::context::Context;
use crate::output::{out, success, talk};
use crate::report::Exit;

use super::auth::confirmed;

pub(super) async fn run(context: &Context, args: &DestroyArgs) -> anyhow::Result<Exit> {
    let connection = context.connect()?;
    let sprite = context.sprite(&connection, args.name.as_deref()).await?;
    let name = sprite.name().to_owned();
    let question = format!("Destroy sprite `{name}` and everything on its disk?");
    if !args.force && !confirmed(&question)? {
        out!("Cancelled.")?;
        return Ok(Exit::SUCCESS);
    }
    sprite.destroy().await?;
    success(&format!("Destroyed sprite {name}"))?;
    // The sprite is gone whether its file can be removed or not.
    match context.project() {
        Ok(Some(file)) if file.project.sprite.as_deref() == Some(&name) => {
            if let Err(error) = file.remove() {
                talk!("{error:#}");
            }
        }
        _ => {}
    }
    Ok(Exit::SUCCESS)
}
