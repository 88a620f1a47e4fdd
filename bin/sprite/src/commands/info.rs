//! Showing and changing one sprite.

use sprite_api::sprite::{Sprite, UpdateSprite, UrlSettings};

use crate::args::{ConfigCommand, NameArgs, PrivateAccess, UrlArgs, UrlAuth, UrlCommand};
use crate::context::Context;
use crate::output::{clean, json, out, success};
use crate::report::Exit;

pub(super) async fn info(context: &Context, args: &NameArgs) -> anyhow::Result<Exit> {
    let connection = context.connect()?;
    let sprite = context.sprite(&connection, args.name.as_deref()).await?.get().await?;
    if args.json.json {
        json(&sprite)?;
        return Ok(Exit::SUCCESS);
    }
    out!("Name: {}", clean(&sprite.name))?;
    out!("ID: {}", clean(&sprite.id))?;
    out!("Status: {}", clean(&sprite.status))?;
    print_url(&sprite)?;
    out!("Created: {}", clean(&sprite.created_at))?;
    if !sprite.labels.is_empty() {
        out!("Labels: {}", clean(&sprite.labels.join(", ")))?;
    }
    Ok(Exit::SUCCESS)
}

fn print_url(sprite: &Sprite) -> std::io::Result<()> {
    out!("URL: {}", clean(&sprite.url))?;
    out!("Auth: {}", clean(sprite.url_settings.auth.as_deref().unwrap_or("sprite")))
}

pub(super) async fn url(context: &Context, args: UrlArgs) -> anyhow::Result<Exit> {
    if let Some(UrlCommand::Update { auth }) = args.command {
        return update(context, Some(auth), None).await;
    }
    let connection = context.connect()?;
    let sprite = context.sprite(&connection, None).await?.get().await?;
    if args.json.json {
        json(&serde_json::json!({ "url": sprite.url, "auth": sprite.url_settings.auth }))?;
    } else {
        print_url(&sprite)?;
    }
    Ok(Exit::SUCCESS)
}

pub(super) async fn config(context: &Context, command: ConfigCommand) -> anyhow::Result<Exit> {
    let ConfigCommand::Update { url_auth, private_access } = command;
    update(context, url_auth, private_access).await
}

async fn update(
    context: &Context,
    auth: Option<UrlAuth>,
    access: Option<PrivateAccess>,
) -> anyhow::Result<Exit> {
    let connection = context.connect()?;
    let sprite = context.sprite(&connection, None).await?;
    let auth = auth.map(|auth| match auth {
        UrlAuth::Public => "public".to_owned(),
        UrlAuth::Sprite => "sprite".to_owned(),
    });
    let private_access = access.map(|access| match access {
        PrivateAccess::Admins => "admins".to_owned(),
        PrivateAccess::OrgUsers => "org_users".to_owned(),
    });
    let url_settings = Some(UrlSettings { auth, private_access });
    let updated = sprite.update(&UpdateSprite { url_settings, ..UpdateSprite::default() }).await?;
    success(&format!("Updated sprite {}", clean(&updated.name)))?;
    print_url(&updated)?;
    Ok(Exit::SUCCESS)
}
