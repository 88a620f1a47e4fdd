# Sourced by login shells.
# shellcheck shell=sh
# /etc/profile has just replaced PATH. The sprite's shims come first, and sudo-less users see the
# sbin folders too.
PATH="/.sprite/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
export PATH
export LANG="${LANG:-en_US.UTF-8}"
export BROWSER="${BROWSER:-/.sprite/bin/sprite-browser}"
