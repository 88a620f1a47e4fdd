# What outlives what: the service, its crash, the agent's crash.
# shellcheck shell=bash disable=SC2154,SC2016

# boot_of NAME: which start of the sprite this is.
boot_of() { in_sprite "$1" cat /proc/1/stat | awk '{ print $22 }'; }
main_pid() { systemctl show -p MainPID --value sprited; }

leave_a_session() {
  sprite exec --sprite first --detachable --no-stdin -- sh -c \
    'i=0; while true; do i=$((i+1)); echo $i >/tmp/count; sleep 0.5; done' >/dev/null 2>&1 &
  eventually 90 in_sprite first test -s /tmp/count
  kill %1
}
counting() {
  local before
  before=$(in_sprite first cat /tmp/count)
  eventually 90 sh -c "[ \$(runuser -u person -- env HOME=/home/person sprite exec --sprite first --no-stdin -- cat /tmp/count) -gt $before ]"
}
restart_keeps_machines() {
  local boot agents pid
  leave_a_session
  boot=$(boot_of first)
  agents=$(guests | sort)
  pid=$(main_pid)
  systemctl restart sprited
  eventually 90 healthy
  fails test "$(main_pid)" = "$pid"
  equal "$(guests | sort)" "$agents"
  equal "$(boot_of first)" "$boot"
  counting
}
crash_keeps_machines() {
  local boot pid
  boot=$(boot_of first)
  pid=$(main_pid)
  kill -KILL "$pid"
  eventually 90 sh -c "[ \$(systemctl show -p MainPID --value sprited) != $pid ]"
  eventually 90 healthy
  equal "$(boot_of first)" "$boot"
  counting
  systemctl show -p NRestarts sprited
}
stop_keeps_machines() {
  local boot
  boot=$(boot_of first)
  systemctl stop sprited
  [ -n "$(guests)" ]
  systemctl start sprited
  eventually 90 healthy
  equal "$(boot_of first)" "$boot"
}
agent_killed() {
  local agents boot
  boot=$(boot_of first)
  agents=$(guests | wc -l)
  # Which agent serves which sprite is none of our business: kill them all.
  guests | xargs kill -KILL
  eventually 90 in_sprite first true
  fails test "$(boot_of first)" = "$boot"
  # The disk is as it was.
  in_sprite first test -s /home/sprite/data
  echo "$agents agents"
}

phase "faults"
check "a restart of the service keeps machines and sessions" restart_keeps_machines
check "so does a crash of it, and systemd starts it again" crash_keeps_machines
check "so does a stop and a start" stop_keeps_machines
check "killed agents come back with their disks" agent_killed
