//! Listing sprites, once or all the time.

use std::io::{self, IsTerminal};
use std::time::Duration;

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use sprite_api::sprite::Sprite;
use sprite_client::{Client, WatchEvent};
use sprite_types::{Clock, SystemClock, Timestamp};

use crate::args::ListArgs;
use crate::context::Context;
use crate::output::{Style, To, clean, json, out, paint, talk};
use crate::report::Exit;
use crate::when::ago_text;

/// Pause before a broken watch is taken up again.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

pub(super) async fn run(context: &Context, args: &ListArgs) -> anyhow::Result<Exit> {
    let connection = context.connect()?;
    let prefix = args.prefix.as_deref();
    if args.watch {
        return watch(&connection.client, prefix, args.json.json).await;
    }
    let sprites = connection.client.sprites(prefix).await?;
    if args.json.json {
        json(&sprites)?;
    } else if io::stdout().is_terminal() {
        print_table(&sprites, connection.org.as_deref(), prefix)?;
    } else {
        for sprite in &sprites {
            out!("{}", clean(&sprite.name))?;
        }
    }
    Ok(Exit::SUCCESS)
}

fn print_table(sprites: &[Sprite], org: Option<&str>, prefix: Option<&str>) -> io::Result<()> {
    if sprites.is_empty() {
        return match prefix {
            Some(prefix) => out!("No sprites begin with `{}`.", clean(prefix)),
            None => out!("No sprites yet. `sprite create <name>` makes one."),
        };
    }
    let heading =
        org.map_or_else(|| "Sprites".to_owned(), |org| format!("Sprites of {}", clean(org)));
    out!("{}", paint(&heading, Style::Bold, To::Stdout))?;
    out!("{}", table(sprites, SystemClock.now()))?;
    out!("{} sprite{}", sprites.len(), if sprites.len() == 1 { "" } else { "s" })
}

fn table(sprites: &[Sprite], now: Timestamp) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(["NAME", "STATUS", "CREATED"]);
    for sprite in sprites {
        let created = ago_text(&sprite.created_at, now);
        table.add_row([clean(&sprite.name), clean(&sprite.status), created]);
    }
    table
}

/// Prints a line for each sprite, then one for each change. Ends with Ctrl-C.
async fn watch(client: &Client, prefix: Option<&str>, as_json: bool) -> anyhow::Result<Exit> {
    let mut events = client.watch_sprites(prefix).await?;
    loop {
        match events.next().await {
            Ok(Some(event)) => print_event(&event, as_json)?,
            ended => {
                if let Err(error) = ended {
                    talk!("The connection was lost ({}); trying again…", clean(&error.to_string()));
                }
                tokio::time::sleep(RETRY_PAUSE).await;
                events = client.watch_sprites(prefix).await?;
            }
        }
    }
}

fn print_event(event: &WatchEvent, as_json: bool) -> anyhow::Result<()> {
    let Some(name) = event.name.as_deref() else { return Ok(()) };
    if as_json {
        // One per line, on terminals too.
        out!("{}", serde_json::to_string(event)?)?;
        return Ok(());
    }
    let status = clean(event.status.as_deref().unwrap_or("?"));
    if io::stdout().is_terminal() {
        let time = event.timestamp.as_deref().and_then(|at| at.get(11..19)).unwrap_or("");
        let time = paint(&clean(time), Style::Dim, To::Stdout);
        out!("{time}  {:<24} {status}", clean(name))?;
    } else {
        out!("{}\t{status}", clean(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_row_per_sprite() {
        let now = Timestamp::parse_rfc3339("2026-01-13T10:30:00Z").unwrap();
        let sprite = Sprite {
            name: "demo\x1b".into(),
            status: "running".into(),
            created_at: "2026-01-13T10:25:00Z".into(),
            ..Sprite::default()
        };
        let text = table(&[sprite], now).to_string();
        for part in ["NAME", "demo\u{fffd}", "running", "5m ago"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
}
