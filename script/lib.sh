# Words that the scripts beside this one share. Sourced, not run.
# shellcheck shell=bash

root_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '%s\n' "$*" >&2; }
die() {
  say "error: $1"
  shift
  for line in "$@"; do say "hint: $line"; done
  exit 1
}

# usage FILE: prints the comment at the top of a script, without its first line.
usage() {
  sed -n '2,/^$/{s/^# \{0,1\}//p}' "$1"
}

# Seconds since the script began, with one digit.
elapsed() {
  local now=${EPOCHREALTIME/[.,]/}
  local tenths=$(((now - script_started) / 100000))
  printf '%d.%d' $((tenths / 10)) $((tenths % 10))
}
script_started=${EPOCHREALTIME/[.,]/}

# step NAME COMMAND…: runs a command, says what it is and how long it took.
step_times=()
step() {
  local name=$1 begin=${EPOCHREALTIME/[.,]/} status=0
  shift
  say "==> $name"
  "$@" || status=$?
  local tenths=$(((${EPOCHREALTIME/[.,]/} - begin) / 100000))
  local time="$((tenths / 10)).$((tenths % 10)) s"
  step_times+=("$(printf '%9s  %s' "$time" "$name")")
  if [ "$status" = 0 ]; then say "    $name: $time"; else say "    $name: failed after $time"; fi
  return "$status"
}

# The person behind sudo, if the clone is theirs to write: builds belong to them.
build_user() {
  local user=${SUDO_USER:-}
  if [ "$(id -u)" = 0 ] && [ -n "$user" ] && [ "$user" != root ] \
    && runuser -u "$user" -- test -w "$root_dir"; then
    printf '%s' "$user"
  else
    id -un
  fi
}

home_of() { getent passwd "$1" | cut -d: -f6; }

# as_user COMMAND…: runs as the build user, with that user's home and programs.
as_user() {
  local user home
  user=$(build_user)
  if [ "$user" = "$(id -un)" ]; then
    "$@"
    return
  fi
  home=$(home_of "$user")
  local keep=()
  local name
  for name in CARGO_TARGET_DIR CARGO_HOME RUSTUP_HOME RUSTUP_TOOLCHAIN RUSTC CARGO_NET_OFFLINE \
    http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY SSL_CERT_FILE SSL_CERT_DIR \
    CARGO_HTTP_CAINFO TERM; do
    if [ -n "${!name:-}" ]; then keep+=("$name=${!name}"); fi
  done
  runuser -u "$user" -- env -i "HOME=$home" "USER=$user" "LOGNAME=$user" \
    "PATH=$home/.cargo/bin:/usr/local/bin:/usr/bin:/bin" "${keep[@]}" "$@"
}

# version_at_least HAVE WANT
version_at_least() {
  [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n1)" = "$2" ]
}

rust_wanted() {
  sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root_dir/Cargo.toml"
}

# Finds a Rust toolchain that is new enough for the build user and sets `cargo` to the command
# that runs it. Distributions name newer ones cargo-1.NN.
cargo=()
find_rust() {
  local wanted candidate version
  wanted=$(rust_wanted)
  cargo=()
  local candidates=(cargo)
  for candidate in /usr/bin/cargo-1.*; do
    if [ -x "$candidate" ]; then candidates+=("$candidate"); fi
  done
  for candidate in "${candidates[@]}"; do
    local rustc=rustc
    case $candidate in
      /usr/bin/cargo-1.*) rustc=/usr/bin/rustc-${candidate##*/cargo-} ;;
    esac
    version=$(as_user "$rustc" --version 2>/dev/null | cut -d' ' -f2) || continue
    as_user "$candidate" --version >/dev/null 2>&1 || continue
    if [ -n "$version" ] && version_at_least "$version" "$wanted"; then
      cargo=(as_user env)
      if [ "$rustc" != rustc ]; then cargo+=("RUSTC=$rustc"); fi
      cargo+=("$candidate")
      return 0
    fi
  done
  return 1
}

need_rust() {
  find_rust || die "no Rust $(rust_wanted) or newer for user $(build_user)" \
    "sudo script/bootstrap installs one where the distribution has it, or says where to get it"
}

target_dir() {
  printf '%s' "${CARGO_TARGET_DIR:-$root_dir/target}"
}

is_root() { [ "$(id -u)" = 0 ]; }
