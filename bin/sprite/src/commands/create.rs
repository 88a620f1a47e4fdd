//! Creating a sprite.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use sprite_api::sprite::{CreateSprite, Sprite};
use sprite_types::SpriteName;

use crate::args::{ConsoleArgs, CreateArgs};
use crate::config::{Project, ProjectFile};
use crate::context::{Connection, Context};
use crate::output::{json, out, success, talk};
use crate::prompt;
use crate::report::Exit;

use super::console;

pub(super) async fn run(context: &Context, args: CreateArgs) -> anyhow::Result<Exit> {
    let connection = context.connect()?;
    let name = match args.name.or_else(|| context.global.sprite.clone()) {
        Some(name) => name,
        None => made_up_name()?,
    };
    let name: SpriteName = name.parse()?;
    if !args.json.json {
        out!("Creating sprite {name}…")?;
    }
    let labels = (!args.labels.is_empty()).then_some(args.labels);
    let body = CreateSprite { name: name.to_string(), labels, ..CreateSprite::default() };
    let sprite = waiting(connection.client.create_sprite(&body)).await?;
    remember(context, &connection, &sprite);
    if args.json.json {
        json(&sprite)?;
        return Ok(Exit::SUCCESS);
    }
    success(&format!("Created sprite {}", sprite.name))?;
    if args.skip_console || !prompt::is_interactive() || !io::stdout().is_terminal() {
        return Ok(Exit::SUCCESS);
    }
    let args = ConsoleArgs { name: Some(sprite.name), no_port_forward: false };
    console::open(&connection, &args).await
}

/// Shows on terminals that something is going on: a first create may wait for the base image.
async fn waiting<T>(work: impl Future<Output = T>) -> T {
    let style = ProgressStyle::with_template("{spinner} {elapsed}");
    let spinner = ProgressBar::new_spinner().with_style(style.expect("the template is constant"));
    spinner.enable_steady_tick(Duration::from_millis(200));
    let result = work.await;
    spinner.finish_and_clear();
    result
}

/// Writes the `.sprite` file. The sprite exists whether that works or not.
fn remember(context: &Context, connection: &Connection, sprite: &Sprite) {
    let org = Some(sprite.organization.clone()).filter(|org| !org.is_empty());
    let org = org.or_else(|| connection.org.clone());
    let project = Project { org, sprite: Some(sprite.name.clone()) };
    if let Err(error) = ProjectFile::write(&context.dir, &project) {
        talk!("Not remembered for this directory: {error:#}");
    }
}

/// Makes a name that is easy to say and unlikely to be taken.
fn made_up_name() -> anyhow::Result<String> {
    const FIRST: [&str; 16] = [
        "amber", "brisk", "calm", "clear", "deft", "early", "fleet", "green", "keen", "light",
        "merry", "quiet", "rapid", "sunny", "swift", "warm",
    ];
    const SECOND: [&str; 16] = [
        "ash", "brook", "cedar", "cloud", "dune", "fern", "field", "grove", "heath", "lake",
        "maple", "moss", "reed", "ridge", "river", "willow",
    ];
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("make up a name: {error}"))?;
    let [first, second, high, low] = bytes;
    let (first, second) = (FIRST[usize::from(first % 16)], SECOND[usize::from(second % 16)]);
    Ok(format!("{first}-{second}-{high:02x}{low:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_names_are_valid() {
        for _ in 0..50 {
            let name = made_up_name().unwrap();
            assert!(name.parse::<SpriteName>().is_ok(), "{name}");
        }
    }
}
