# What checks share. Sourced by ./run in the process of each check.
# shellcheck shell=bash

# A condition that takes its time: eventually SECONDS COMMAND…
eventually() {
  local limit=$1 begin=$SECONDS
  shift
  until "$@" >/dev/null 2>&1; do
    if [ $((SECONDS - begin)) -ge "$limit" ]; then
      echo "still not after $limit s: $*"
      "$@" || true
      return 1
    fi
    sleep 0.2
  done
}

# fails COMMAND…: passes if the command does not.
fails() {
  if "$@"; then
    echo "this should have failed: $*"
    return 1
  fi
}

equal() {
  if [ "$1" != "$2" ]; then
    printf 'expected: %s\nfound:    %s\n' "$2" "$1"
    return 1
  fi
}

# As the person of this machine, who is not root.
person() {
  runuser -u person -- env -i HOME=/home/person USER=person PATH=/usr/local/bin:/usr/bin:/bin \
    TERM=xterm timeout --kill-after=5 "${limit:-150}" "$@"
}
sprite() { person sprite "$@"; }
# in_sprite NAME COMMAND…
in_sprite() {
  local name=$1
  shift
  sprite exec --sprite "$name" --no-stdin -- "$@"
}

api=http://127.0.0.1:7780
healthy() { [ "$(curl -s -o /dev/null -w '%{http_code}' --max-time 5 "$api/healthz")" = 200 ]; }
# The pid of the agent of the only machine, or of all machines.
guests() { pgrep -x sprite-guestd; }
# Groups of machines, one a line.
machine_groups() { find /sys/fs/cgroup -maxdepth 6 -type d -name 'mch-*'; }
# Where the distribution's packages come from, as `http://host`.
archive() {
  find /etc/apt -name '*.list' -exec cat {} + \
    | sed -n 's|^deb .*\(https\{0,1\}://[^/ ]*\)/.*|\1|p' | sed -n 1p
}
