//! What a command works with: server, org, sprite, and the environment it was started in.

use std::path::PathBuf;

use anyhow::Context as _;
use sprite_client::{Client, SpriteClient, Token};
use sprite_types::SpriteName;

use crate::args::Global;
use crate::config::{
    ConfigFile, Inputs, ProjectFile, normal_url, resolve_account, resolve_sprite, split_org,
};
use crate::prompt;
use crate::report::{Usage, WithHint};

/// The first of these environment variables that is set holds a token.
const TOKEN_VARIABLES: [&str; 3] = ["SPRITE_TOKEN", "SPRITES_TOKEN", "SPRITES_API_TOKEN"];

/// What a command works with.
pub(crate) struct Context {
    /// Flags of every command.
    pub(crate) global: Global,
    /// Stored tokens.
    pub(crate) file: ConfigFile,
    /// Where the command was started.
    pub(crate) dir: PathBuf,
}

/// A server, and as whom we talk to it.
pub(crate) struct Connection {
    /// The calls.
    pub(crate) client: Client,
    /// The org, as far as known.
    pub(crate) org: Option<String>,
    /// For programs we start; not for printing.
    pub(crate) token: Token,
}

/// Returns a variable that is set to something.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

impl Context {
    pub(crate) fn new(global: Global) -> anyhow::Result<Self> {
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
        let home = home
            .context("HOME is not set, so there is no place for the configuration")
            .hint("HOME=/home/you sprite …")?;
        let file = ConfigFile::below(&PathBuf::from(home));
        let dir = std::env::current_dir().context("find the current directory")?;
        Ok(Self { global, file, dir })
    }

    pub(crate) fn token_variable() -> Option<String> {
        TOKEN_VARIABLES.iter().find_map(|name| variable(name))
    }

    pub(crate) fn project(&self) -> anyhow::Result<Option<ProjectFile>> {
        ProjectFile::find(&self.dir)
    }

    /// Decides which server and org, and makes the client.
    pub(crate) fn connect(&self) -> anyhow::Result<Connection> {
        let inputs = Inputs {
            org_flag: self.global.org.clone(),
            org_env: variable("SPRITE_ORG"),
            token_env: Self::token_variable(),
            url_env: variable("SPRITES_API_URL"),
            project: self.project()?.map(|file| file.project),
            config: self.file.load()?,
        };
        let account = resolve_account(&inputs).map_err(|error| (error.hint(), error));
        let account = account.or_else(|(hint, error)| Err(error).hint(hint))?;
        let token = Token::new(&account.token)?;
        tracing::debug!(url = account.url, org = account.org, "account chosen");
        let client = Client::new(account.url.parse()?, token.clone());
        Ok(Connection { client, org: account.org, token })
    }

    /// Decides which server, for commands that store a token for it.
    pub(crate) fn server(&self, named: Option<&str>) -> anyhow::Result<String> {
        let config = self.file.load()?;
        let alias = self.global.org.as_deref().and_then(|org| split_org(org).0);
        if let Some(named) = named {
            let is_url = named.contains("://");
            let known = config.url_of_alias(named).filter(|_| !is_url);
            let url = known.unwrap_or_else(|| normal_url(named));
            url.parse::<sprite_client::Endpoint>()?;
            return Ok(url);
        }
        let url = variable("SPRITES_API_URL")
            .map(|url| normal_url(&url))
            .or_else(|| config.url_of_alias(alias?))
            .or_else(|| config.selection().0)
            .unwrap_or_else(|| crate::config::DEFAULT_API_URL.to_owned());
        url.parse::<sprite_client::Endpoint>()?;
        Ok(url)
    }

    /// Returns the sprite that is named, or of this directory; asks if there is somebody.
    pub(crate) async fn sprite(
        &self,
        connection: &Connection,
        named: Option<&str>,
    ) -> anyhow::Result<SpriteClient> {
        let name = match self.sprite_name(named)? {
            Some(name) => name,
            None if prompt::is_interactive() => self.pick(connection).await?,
            None => return Err(no_sprite()),
        };
        let name: SpriteName = name.parse()?;
        Ok(connection.client.sprite(name.as_str()))
    }

    /// Returns the sprite that is named, or of this directory.
    pub(crate) fn sprite_name(&self, named: Option<&str>) -> anyhow::Result<Option<String>> {
        let flag = self.global.sprite.as_deref();
        if let (Some(flag), Some(named)) = (flag, named)
            && flag != named
        {
            let text = format!("two sprites are named: `{flag}` and `{named}`");
            return Err(Usage(text).into());
        }
        let named = named.or(flag);
        if named.is_some() {
            return Ok(resolve_sprite(named, None));
        }
        let project = self.project()?.map(|file| file.project);
        Ok(resolve_sprite(None, project.as_ref()))
    }

    /// Lets the user choose a sprite.
    pub(crate) async fn pick(&self, connection: &Connection) -> anyhow::Result<String> {
        let sprites = connection.client.sprites(None).await?;
        if sprites.is_empty() {
            return Err(anyhow::anyhow!("there are no sprites yet")).hint("`sprite create <name>`");
        }
        let names: Vec<_> = sprites.into_iter().map(|sprite| sprite.name).collect();
        prompt::choose("Which sprite?", &names)?.ok_or_else(no_sprite)
    }
}

fn no_sprite() -> anyhow::Error {
    Err::<(), _>(anyhow::anyhow!("sprite name required: use -s flag or create a .sprite file"))
        .hint("`sprite list` shows your sprites; `sprite use <name>` makes the file")
        .expect_err("made of an error just now")
}
