//! The command line of `sprited`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::Overrides;

/// Runs durable Linux computers ("sprites") on this host.
#[derive(Debug, Parser)]
#[command(name = "sprited", version, about, propagate_version = true)]
pub struct Cli {
    /// Settings file in TOML; `sprited up --print-config` shows every setting.
    #[arg(long, global = true, env = "SPRITED_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How log lines look: `text` or `json`. What is logged is chosen by SPRITES_LOG.
    #[arg(long, global = true, env = "SPRITED_LOG_FORMAT", default_value = "text")]
    pub log_format: String,
    /// Settings that flags and environment override.
    #[command(flatten)]
    pub settings: Overrides,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `sprited` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the API, in the foreground.
    Up(UpArgs),
    /// Stop the running `sprited` and every machine, in order.
    Stop,
    /// Make, list and revoke API tokens.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Make and list orgs, the owners of sprites.
    #[command(subcommand)]
    Org(OrgCommand),
    /// Build, import, list and remove base images.
    #[command(subcommand)]
    Image(ImageCommand),
    /// Check this host and say how to mend what is wrong.
    Doctor(DoctorArgs),
}

/// Flags of `up`.
#[derive(Debug, Default, Args)]
pub struct UpArgs {
    /// For tests and try-outs: a temporary data folder and a free port; prints
    /// SPRITES_API_URL=… and SPRITE_TOKEN=… once ready, leaves nothing behind at its end.
    #[arg(long)]
    pub ephemeral: bool,
    /// Print the settings in force as TOML and exit.
    #[arg(long)]
    pub print_config: bool,
}

/// Commands about tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token; makes the org too if it is new.
    Create {
        /// Whose sprites the token opens.
        #[arg(long)]
        org: String,
        /// What the token is for.
        #[arg(long, default_value = "")]
        description: String,
        /// Print the token alone.
        #[arg(long)]
        quiet: bool,
    },
    /// List the tokens of an org, without their secrets.
    List {
        /// Whose.
        #[arg(long)]
        org: String,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Revoke a token: it opens nothing any more, at once.
    Revoke {
        /// Whose.
        #[arg(long)]
        org: String,
        /// The token's id, `tok-…`.
        id: String,
    },
}

/// Commands about orgs.
#[derive(Debug, Subcommand)]
pub enum OrgCommand {
    /// Make an org.
    Create {
        /// Its name: a-z, 0-9 and '-'.
        name: String,
    },
    /// List the orgs.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Commands about images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Build the base image of the settings, unless it is there.
    Build {
        /// Build it again, for newer packages.
        #[arg(long)]
        rebuild: bool,
    },
    /// Make an image of a root file system made elsewhere.
    Import {
        /// A tarball (plain or gzip) or an OCI layout folder.
        from: PathBuf,
        /// What to call it.
        #[arg(long)]
        name: String,
    },
    /// List the images.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove an image; sprites made from it are not touched.
    Remove {
        /// Its id or name.
        image: String,
    },
}

/// Flags of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}
