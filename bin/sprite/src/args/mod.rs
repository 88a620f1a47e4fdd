//! The command line: commands, flags, and how they may be spelled.

mod env_list;
mod normalise;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

pub(crate) use env_list::split_env;
pub(crate) use normalise::normalise;

/// Sprites: durable Linux computers of your own.
#[derive(Parser)]
#[command(name = "sprite", version, arg_required_else_help = true, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "\
Environment:
  SPRITE_TOKEN      token, instead of the stored one
  SPRITE_ORG        org, unless -o is given
  SPRITES_API_URL   address of the API
  NO_COLOR          no colour

Files: ~/.sprites/sprites.json (tokens), .sprite (the sprite of a directory)";

/// Flags that may stand before or after the command.
#[derive(Args, Clone, Default)]
pub(crate) struct Global {
    /// Org, at the server saved under an alias if one is given
    #[arg(short, long, global = true, value_name = "[ALIAS:]ORG")]
    pub(crate) org: Option<String>,
    /// Sprite
    #[arg(short, long, global = true, value_name = "NAME")]
    pub(crate) sprite: Option<String>,
    /// Log what the client does to stderr, or to a file
    #[arg(long, global = true, value_name = "FILE", num_args = 0..=1, require_equals = true,
          default_missing_value = crate::debug::STDERR)]
    pub(crate) debug: Option<String>,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Store a token for a server
    Login(LoginArgs),
    /// Remove the configuration, with all stored tokens
    Logout(ForceArgs),
    /// Stored orgs and their tokens
    #[command(visible_alias = "orgs", aliases = ["organizations", "o"], subcommand)]
    Org(OrgCommand),
    /// Set up without questions
    #[command(subcommand)]
    Auth(AuthCommand),

    /// Create a sprite
    Create(CreateArgs),
    /// Choose the sprite of this directory (`.sprite` file)
    Use(UseArgs),
    /// List sprites
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show a sprite
    Info(NameArgs),
    /// Show a sprite's URL (see also `info`)
    Url(UrlArgs),
    /// Change a sprite's settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Destroy a sprite and everything on its disk
    Destroy(DestroyArgs),

    /// Run a command in a sprite
    #[command(visible_alias = "x")]
    Exec(ExecArgs),
    /// Open a shell in a sprite
    #[command(visible_alias = "c")]
    Console(ConsoleArgs),
    /// Running commands: list, attach, kill
    #[command(visible_alias = "s", alias = "session", subcommand)]
    Sessions(SessionsCommand),
    /// Attach to a running command
    Attach(AttachArgs),

    /// Copy files to or from a sprite (`:path` or `name:path` is in a sprite)
    Cp(CpArgs),
    /// Push, pull or edit files
    #[command(subcommand)]
    File(FileCommand),

    /// Checkpoints of a sprite
    #[command(visible_alias = "checkpoints", subcommand)]
    Checkpoint(CheckpointCommand),
    /// Restore a checkpoint
    Restore(IdArgs),
    /// Forward local ports to a sprite
    Proxy(ProxyArgs),

    /// Call the API with curl
    Api(ApiArgs),
    /// Print a completion script
    #[command(visible_alias = "completions")]
    Completion {
        /// The shell to complete for
        shell: Shell,
    },
    /// Update this client
    Upgrade(UpgradeArgs),
    /// Print the client's version
    Version(JsonArgs),
}

#[derive(Args)]
pub(crate) struct JsonArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct ForceArgs {
    /// Do not ask
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Args)]
pub(crate) struct LoginArgs {
    /// API address, or an alias of one
    #[arg(value_name = "API-URL")]
    pub(crate) server: Option<String>,
    #[command(flatten)]
    pub(crate) token: TokenArgs,
}

#[derive(Args)]
pub(crate) struct TokenArgs {
    /// The token. Other users of this machine can see arguments: prefer a prompt, SPRITE_TOKEN
    /// or stdin
    #[arg(long)]
    pub(crate) token: Option<String>,
}

#[derive(Subcommand)]
pub(crate) enum OrgCommand {
    /// Store another token
    Auth(LoginArgs),
    /// Show the stored orgs
    #[command(visible_alias = "ls")]
    List {
        /// Only those of this server
        #[arg(value_name = "API-URL|ALIAS")]
        server: Option<String>,
        #[command(flatten)]
        json: JsonArgs,
    },
    /// Remove all tokens, or (with -o) those of one org
    Logout(ForceArgs),
    /// Where tokens are kept
    #[command(subcommand)]
    Keyring(KeyringCommand),
}

#[derive(Subcommand)]
pub(crate) enum KeyringCommand {
    /// Keep tokens in the system keyring
    Enable,
    /// Keep tokens in a file
    Disable,
}

#[derive(Subcommand)]
pub(crate) enum AuthCommand {
    /// Store a token; its org is the text before the first `/`
    Setup(TokenArgs),
}

#[derive(Args)]
pub(crate) struct CreateArgs {
    /// Name; one is made up if absent
    pub(crate) name: Option<String>,
    /// Do not open a console
    #[arg(long)]
    pub(crate) skip_console: bool,
    /// Label (repeat for more)
    #[arg(long = "label", value_name = "LABEL")]
    pub(crate) labels: Vec<String>,
    #[command(flatten)]
    pub(crate) json: JsonArgs,
}

#[derive(Args)]
pub(crate) struct UseArgs {
    /// Name; pick one from the list if absent
    pub(crate) name: Option<String>,
    /// Remove the `.sprite` file
    #[arg(long)]
    pub(crate) unset: bool,
}

#[derive(Args)]
pub(crate) struct ListArgs {
    /// Follow changes
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// Only names that begin so
    #[arg(long)]
    pub(crate) prefix: Option<String>,
    #[command(flatten)]
    pub(crate) json: JsonArgs,
}

#[derive(Args)]
pub(crate) struct NameArgs {
    /// Sprite
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) json: JsonArgs,
}

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct UrlArgs {
    #[command(subcommand)]
    pub(crate) command: Option<UrlCommand>,
    #[command(flatten)]
    pub(crate) json: JsonArgs,
}

#[derive(Subcommand)]
pub(crate) enum UrlCommand {
    /// Change who may open the URL (see also `config update`)
    Update {
        /// Who may open the URL
        #[arg(short, long)]
        auth: UrlAuth,
    },
}

/// Who may open a sprite's URL.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum UrlAuth {
    /// Everybody
    Public,
    /// Holders of a token of the org
    #[value(alias = "default")]
    Sprite,
}

/// Whose tokens open a private URL.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum PrivateAccess {
    /// Administrators of the org
    Admins,
    /// All of the org
    OrgUsers,
}

#[derive(Subcommand)]
pub(crate) enum ConfigCommand {
    /// Change settings
    #[command(group = clap::ArgGroup::new("settings").required(true).multiple(true))]
    Update {
        /// Who may open the URL
        #[arg(long, group = "settings")]
        url_auth: Option<UrlAuth>,
        /// Whose tokens open a private URL
        #[arg(long, group = "settings")]
        private_access: Option<PrivateAccess>,
    },
}

#[derive(Args)]
pub(crate) struct DestroyArgs {
    /// Sprite
    pub(crate) name: Option<String>,
    /// Do not ask
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Args)]
pub(crate) struct ExecArgs {
    /// Working directory
    #[arg(long)]
    pub(crate) dir: Option<String>,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Environment variables, K=v,K2=v2 (repeat for more)
    #[arg(long, value_name = "K=V,…")]
    pub(crate) env: Vec<String>,
    /// Copy a file into the sprite first (repeat for more)
    #[arg(long = "file", value_name = "SRC:DEST")]
    pub(crate) files: Vec<String>,
    /// Do not forward stdin
    #[arg(long)]
    pub(crate) no_stdin: bool,
    /// Use a plain HTTP request instead of a WebSocket
    #[arg(long, conflicts_with_all = ["tty", "detachable", "id", "cc"])]
    pub(crate) http_post: bool,
    /// Do not forward ports that the command opens
    #[arg(long)]
    pub(crate) no_port_forward: bool,
    /// Let the command run on when this client leaves
    #[arg(long)]
    pub(crate) detachable: bool,
    /// Attach to a session instead
    #[arg(long, value_name = "SESSION", conflicts_with = "command")]
    pub(crate) id: Option<String>,
    /// Terminal-multiplexer control mode (old)
    #[arg(long, hide = true)]
    pub(crate) cc: bool,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

#[derive(Args)]
pub(crate) struct ConsoleArgs {
    /// Sprite
    pub(crate) name: Option<String>,
    /// Do not forward ports that commands open
    #[arg(long)]
    pub(crate) no_port_forward: bool,
}

#[derive(Subcommand)]
pub(crate) enum SessionsCommand {
    /// List running commands
    #[command(visible_alias = "ls")]
    List(JsonArgs),
    /// Attach to one
    Attach(AttachArgs),
    /// End one
    Kill {
        /// Session
        id: String,
        /// Signal, as a name or number (default TERM)
        #[arg(long)]
        signal: Option<String>,
        /// How long to wait before SIGKILL (default 10s)
        #[arg(long, value_name = "DURATION")]
        timeout: Option<String>,
        #[command(flatten)]
        json: JsonArgs,
    },
}

#[derive(Args)]
pub(crate) struct AttachArgs {
    /// Session
    pub(crate) id: String,
    /// Do not forward ports that the command opens
    #[arg(long)]
    pub(crate) no_port_forward: bool,
}

#[derive(Args)]
pub(crate) struct CpArgs {
    /// Copy directories with everything in them
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// Create missing directories of the destination
    #[arg(short, long)]
    pub(crate) parents: bool,
    /// From: `path`, `:path`, `name:path`, or `-` for stdin
    pub(crate) source: String,
    /// To: `path`, `:path`, `name:path`, or `-` for stdout
    pub(crate) dest: String,
}

#[derive(Subcommand)]
pub(crate) enum FileCommand {
    /// Copy to the sprite
    Push {
        /// Local path, or `-` for stdin
        local: PathBuf,
        /// Path in the sprite
        remote: String,
        /// Copy directories with everything in them
        #[arg(short, long)]
        recursive: bool,
        /// Create missing directories
        #[arg(short, long)]
        parents: bool,
    },
    /// Copy from the sprite
    Pull {
        /// Path in the sprite
        remote: String,
        /// Local path, or `-` for stdout
        local: PathBuf,
        /// Copy directories with everything in them
        #[arg(short, long)]
        recursive: bool,
    },
    /// Edit a file of the sprite with $EDITOR
    Edit {
        /// Path in the sprite
        remote: String,
    },
}

#[derive(Args)]
pub(crate) struct ApiArgs {
    /// Path below /v1/sprites/<sprite>; one that begins with /v1/ is absolute
    pub(crate) path: String,
    /// Arguments for curl
    #[arg(last = true, value_name = "CURL-ARGS")]
    pub(crate) curl: Vec<std::ffi::OsString>,
}

#[derive(Args)]
pub(crate) struct IdArgs {
    /// Checkpoint
    pub(crate) id: String,
}

#[derive(Subcommand)]
pub(crate) enum CheckpointCommand {
    /// Make a checkpoint
    Create {
        /// What it is for
        #[arg(long)]
        comment: Option<String>,
    },
    /// List checkpoints
    #[command(visible_alias = "ls")]
    List {
        /// Only those descending from this one
        #[arg(long)]
        history: Option<String>,
        /// Also those made by the system
        #[arg(long)]
        include_auto: bool,
    },
    /// Show a checkpoint
    Info(IdArgs),
    /// Delete a checkpoint
    #[command(visible_alias = "rm")]
    Delete(IdArgs),
    /// Restore a checkpoint
    Restore(IdArgs),
}

#[derive(Args)]
pub(crate) struct ProxyArgs {
    /// `port` or `local:remote`
    #[arg(required_unless_present = "stdio")]
    pub(crate) mappings: Vec<String>,
    /// Connect stdin and stdout to one port instead
    #[arg(short = 'W', long, value_name = "[HOST]:PORT")]
    pub(crate) stdio: Option<String>,
}

#[derive(Args)]
pub(crate) struct UpgradeArgs {
    /// Only look
    #[arg(long)]
    pub(crate) check: bool,
    /// Also to the same version
    #[arg(long)]
    pub(crate) force: bool,
    /// This version
    #[arg(long = "version", value_name = "V")]
    pub(crate) wanted: Option<String>,
    /// `release`, `rc` or `dev`
    #[arg(long)]
    pub(crate) channel: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }
}
