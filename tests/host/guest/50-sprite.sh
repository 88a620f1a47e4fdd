# A first sprite, and that it feels like a machine on this kernel.
# shellcheck shell=bash disable=SC2154,SC2016

create() {
  sprite create first --skip-console
  sprite list
}
exec_a_command() {
  equal "$(in_sprite first id -un)" sprite
  equal "$(in_sprite first sudo id -u)" 0
  equal "$(in_sprite first uname -r)" "$(uname -r)"
}
exit_codes_and_streams() {
  local status=0
  in_sprite first sh -c 'echo out; echo err >&2; exit 7' >"$state/out" 2>"$state/err" || status=$?
  equal "$status $(cat "$state/out") $(cat "$state/err")" "7 out err"
}
terminal() {
  equal "$(person script -qec 'sprite exec --sprite first --tty -- tty' /dev/null | tr -d '\r')" \
    /dev/pts/0
}
files() {
  head -c 3000000 /dev/urandom >/home/person/data
  chown person: /home/person/data
  sprite cp /home/person/data first:/home/sprite/data
  sprite cp first:/home/sprite/data /home/person/back
  cmp /home/person/data /home/person/back
}
modules_on_demand() {
  # /dev/fuse and /dev/net/tun are there before their modules are: opening them must load those.
  in_sprite first sudo sh -c 'exec 3<>/dev/fuse && exec 4<>/dev/net/tun && ip tuntap add t0 mode tun && ip link show t0'
}
like_a_machine() {
  in_sprite first sh -euxc '
    unshare -Ur id -u
    unshare -Urpf --mount-proc true
    sudo unshare -m sh -c "mount -t tmpfs t /mnt && mount -t overlay -o lowerdir=/etc,upperdir=$(mktemp -d),workdir=$(mktemp -d) o /mnt || true"
    sudo adduser --disabled-password --gecos "" someone >/dev/null
    sudo -u someone id -un
    ping -c 1 -W 5 127.0.0.1 >/dev/null
    sudo sysctl -q net.ipv4.ip_forward=1
    cat /sys/fs/cgroup/cgroup.controllers
    node --version
    python3 -c "print(1)"'
}
memory_limit() {
  local group
  group=$(machine_groups | head -n1)
  cat "$group/memory.max" "$group/pids.max"
  fails grep -q max "$group/memory.max"
  fails grep -q max "$group/pids.max"
  # A limit that can be reached: the process goes, the sprite stays.
  local before
  before=$(cat "$group/memory.max")
  echo 200M >"$group/memory.max"
  fails in_sprite first python3 -c 'x = bytearray(400 << 20)'
  echo "$before" >"$group/memory.max"
  grep oom_kill "$group/memory.events"
  fails grep -q '^oom_kill 0' "$group/memory.events"
  equal "$(in_sprite first echo there)" there
}
fork_bomb() {
  local group before status=0
  group=$(machine_groups | head -n1)
  before=$(cat "$group/pids.max")
  echo 60 >"$group/pids.max"
  sprite exec --sprite first --no-stdin -- sh -c 'for i in $(seq 100); do sleep 100 & done; sleep 100' \
    >/dev/null 2>&1 &
  eventually 90 sh -c "[ \$(cat $group/pids.current) -ge 50 ]"
  equal "$(in_sprite first echo room)" room
  echo "$before" >"$group/pids.max"
  in_sprite first sudo pkill -x sleep || status=$?
  kill %1 2>/dev/null || true
}
attacks() {
  chmod 755 "$here/attack"
  cp "$here/attack" /home/person/attack
  sprite cp /home/person/attack first:/tmp/attack
  in_sprite first chmod 755 /tmp/attack
  in_sprite first sudo /tmp/attack all >"$state/attacks" || { grep SUCCEEDED "$state/attacks"; return 1; }
  in_sprite first /tmp/attack nested >>"$state/attacks" || { grep SUCCEEDED "$state/attacks"; return 1; }
  echo "note: $(grep -c '^blocked' "$state/attacks") blocked"
  [ "$(grep -c '^blocked' "$state/attacks")" -ge 50 ]
}
nothing_of_the_host() {
  # The attacks that depend on the kernel's own configuration.
  in_sprite first sudo sh -euc '
    no() { if "$@" 2>/dev/null; then echo "should have failed: $*"; exit 1; fi; }
    no sh -c "echo x >/proc/sys/kernel/core_pattern"
    no sh -c "echo b >/proc/sysrq-trigger"
    no mknod /tmp/disk b 254 0
    no dmesg
    no modprobe dummy
    no mount -t ext4 /dev/vda /mnt
    no sh -c "echo +memory >/sys/fs/cgroup/../cgroup.subtree_control"
    no mount -o remount,dev /
    no ls /sys/fs/ext4/vda
    no cat /sys/kernel/security/apparmor/profiles
    no sh -c "echo max >/sys/fs/cgroup/memory.max"'
}

phase "a sprite"
check "create" create
check "commands run as the user and as root" exec_a_command
check "exit codes and streams arrive" exit_codes_and_streams
check "a command gets a terminal" terminal
check "files go in and out" files
check "opening /dev/fuse and /dev/net/tun loads their modules" modules_on_demand
check "user namespaces, mounts, adduser, ping, sysctl, node and python work" like_a_machine
check "the memory limit holds and takes only what went over it" memory_limit
check "the process limit holds and a command still starts" fork_bomb
check "nothing of the host opens, as root in the sprite" nothing_of_the_host
check "every attack on the container is blocked, as root and in a nested namespace" attacks
