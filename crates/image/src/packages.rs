//! What is installed in which variant.

use crate::recipe::{Distribution, Variant};

/// Programs that clients need (the first rows of the contract's table), and those without which
/// a machine does not feel like one.
const MINIMAL: &[&str] = &[
    "adduser",
    "apt",
    // Without it every installation says that it is missing.
    "apt-utils",
    "bash",
    "bind9-dnsutils",
    "bzip2",
    "ca-certificates",
    "coreutils",
    "curl",
    "diffutils",
    "findutils",
    "fuse3",
    "git",
    "gzip",
    "hostname",
    "iproute2",
    "iputils-ping",
    "less",
    // Resolves the machine's own name, whatever it is: without it sudo complains.
    "libnss-myhostname",
    "locales",
    "mount",
    "netbase",
    "openssh-client",
    "passwd",
    "procps",
    "psmisc",
    "python3",
    "python3-pip",
    "python3-venv",
    "rsync",
    "strace",
    "sudo",
    "tar",
    "tzdata",
    "unzip",
    "util-linux",
    "wget",
    "xz-utils",
];

/// Documented comfort and languages.
const DEVTOOLS: &[&str] = &[
    "acl",
    "attr",
    "build-essential",
    "cmake",
    "default-jdk-headless",
    "elixir",
    "erlang-base",
    "erlang-dev",
    "fd-find",
    "file",
    "fish",
    "gdb",
    "golang-go",
    "htop",
    "jq",
    "lsof",
    "man-db",
    "nano",
    "ncurses-term",
    "pkg-config",
    "python3-dev",
    "ripgrep",
    "ruby-full",
    "sqlite3",
    "tmux",
    "tree",
    "vim",
    "zip",
    "zsh",
    "zstd",
];

/// Coding CLIs and runtimes that their makers publish in npm's registry.
const NPM_DEVTOOLS: &[&str] = &[
    "@anthropic-ai/claude-code",
    "@google/gemini-cli",
    "@openai/codex",
    "bun",
    "deno",
    "opencode-ai",
    "pnpm",
    "typescript",
    "yarn",
];

/// Lists the distribution's packages of a variant, sorted.
pub(crate) fn packages(distribution: &Distribution, variant: Variant) -> Vec<&'static str> {
    let mut packages = MINIMAL.to_vec();
    if variant == Variant::Devtools {
        packages.extend(DEVTOOLS);
        // Debian 12's own Rust is years old; it carries a current one for browsers.
        packages.extend(match distribution.codename.as_str() {
            "bookworm" => ["rustc-web", "cargo-web"],
            _ => ["rustc", "cargo"],
        });
    }
    packages.sort_unstable();
    packages
}

/// Lists the npm packages of a variant, sorted.
pub(crate) fn npm_packages(variant: Variant) -> &'static [&'static str] {
    match variant {
        Variant::Minimal => &[],
        Variant::Devtools => NPM_DEVTOOLS,
    }
}
