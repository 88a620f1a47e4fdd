//! The base image of the settings, as a state that creates wait for.

use anyhow::Context;
use sprite_image::{Certificates, Image, Images, Progress, Recipe, Variant};
use sprite_lifecycle::{ImageState, ReadyImage};
use tokio::sync::watch;

use crate::config::ImageConfig;

/// Opens the images of this host.
pub(crate) fn images(config: &ImageConfig) -> anyhow::Result<Images> {
    Images::open(&config.cache_dir).context("open the host's images")
}

/// Returns the recipe of a built image; `None` if the settings name an imported one.
pub(crate) fn recipe(config: &ImageConfig) -> anyhow::Result<Option<Recipe>> {
    let Ok(variant) = config.name.parse::<Variant>() else { return Ok(None) };
    let mut recipe = Recipe::of_host(variant)?;
    let files: Vec<_> = config.ca_file.iter().cloned().collect();
    recipe.certificates = Certificates::of_host(&files, |name| std::env::var(name).ok())?;
    recipe.certificates_in_image = config.ca_in_image;
    Ok(Some(recipe))
}

/// Finds or builds the image of the settings.
pub(crate) async fn ensure(
    config: &ImageConfig,
    report: impl Fn(Progress) + Send + 'static,
) -> anyhow::Result<Image> {
    let images = images(config)?;
    match recipe(config)? {
        Some(recipe) => Ok(images.ensure(recipe, report).await?),
        None => Ok(images.find(&config.name)?),
    }
}

/// Finds or builds the image in the background; progress goes to standard error.
pub(crate) fn prepare(config: ImageConfig) -> watch::Receiver<ImageState> {
    let (state_out, state) = watch::channel(ImageState::Preparing);
    tokio::spawn(async move {
        let next = match ensure(&config, |progress| eprintln!("{progress}")).await {
            Ok(image) => {
                tracing::info!(image = %image.id, name = image.name, "image ready");
                ImageState::Ready(ReadyImage { id: image.id, path: image.path })
            }
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "no base image");
                ImageState::Failed(format!("{error:#}"))
            }
        };
        state_out.send_replace(next);
    });
    state
}
