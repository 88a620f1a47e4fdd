//! Checkpoints. The routes exist; servers that cannot do it yet say so, and we pass that on.

use serde_json::{Value, json};
use sprite_client::SpriteClient;

use crate::args::CheckpointCommand;
use crate::context::Context;
use crate::output::{clean, out};
use crate::report::{Exit, WithHint};

pub(super) async fn run(context: &Context, command: CheckpointCommand) -> anyhow::Result<Exit> {
    let connection = context.connect()?;
    let sprite = context.sprite(&connection, None).await?;
    match command {
        CheckpointCommand::Create { comment } => {
            let body = comment.map_or_else(|| json!({}), |comment| json!({ "comment": comment }));
            follow(&sprite, "create a checkpoint", &["checkpoint"], Some(&body)).await
        }
        CheckpointCommand::Restore(args) => restore_in(&sprite, &args.id).await,
        CheckpointCommand::List { history: _, include_auto: _ } => {
            show(&sprite, "list checkpoints", "GET", &["checkpoints"]).await
        }
        CheckpointCommand::Info(args) => {
            show(&sprite, "get the checkpoint", "GET", &["checkpoints", &args.id]).await
        }
        CheckpointCommand::Delete(args) => {
            show(&sprite, "delete the checkpoint", "DELETE", &["checkpoints", &args.id]).await
        }
    }
}

pub(super) async fn restore(context: &Context, id: &str) -> anyhow::Result<Exit> {
    let connection = context.connect()?;
    let sprite = context.sprite(&connection, None).await?;
    restore_in(&sprite, id).await
}

async fn restore_in(sprite: &SpriteClient, id: &str) -> anyhow::Result<Exit> {
    let segments = ["checkpoints", id, "restore"];
    follow(sprite, "restore the checkpoint", &segments, None).await
}

/// Prints the text of each line of a progress stream; an `error` line fails the command.
async fn follow(
    sprite: &SpriteClient,
    what: &str,
    segments: &[&str],
    body: Option<&Value>,
) -> anyhow::Result<Exit> {
    let answer = sprite.call_raw(what, "POST", segments, body).await?;
    for line in answer.split(|&b| b == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
        let event: Value = serde_json::from_slice(line)?;
        let text = |key: &str| event.get(key).and_then(Value::as_str).map(clean);
        if let Some(error) = text("error") {
            return Err(anyhow::anyhow!("{what}: {error}")).hint("`sprite checkpoint list`");
        }
        if let Some(data) = text("data") {
            out!("{data}")?;
        }
    }
    Ok(Exit::SUCCESS)
}

async fn show(
    sprite: &SpriteClient,
    what: &str,
    method: &str,
    segments: &[&str],
) -> anyhow::Result<Exit> {
    let answer = sprite.call_raw(what, method, segments, None).await?;
    if !answer.is_empty() {
        crate::output::json(&serde_json::from_slice::<Value>(&answer)?)?;
    }
    Ok(Exit::SUCCESS)
}
