//! Port forwarding. Servers that cannot do it yet say so, and we pass that on.

use crate::args::ProxyArgs;
use crate::context::Context;
use crate::report::{Exit, WithHint};

pub(super) async fn run(context: &Context, args: &ProxyArgs) -> anyhow::Result<Exit> {
    let ProxyArgs { mappings: _, stdio: _ } = args;
    let connection = context.connect()?;
    let sprite = context.sprite(&connection, None).await?;
    sprite.probe_proxy().await?;
    Err(anyhow::anyhow!("this client cannot forward ports yet"))
        .hint("a newer client may; `sprite version` shows yours")
}
