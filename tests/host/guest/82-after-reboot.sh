# The host came back: so did the service, and with it the sprite.
# shellcheck shell=bash disable=SC2154,SC2016

shut_down_in_time() {
  # From the order to the new kernel's first moment. systemd's own patience is 90 s.
  local down
  down=$(($(sed -n 's/^btime //p' /proc/stat) - $(cat "$state/rebooted")))
  echo "note: down $down s after the order, here $(cut -d. -f1 /proc/uptime) s later"
  [ "$down" -lt 60 ]
}
service_came_by_itself() {
  eventually 90 healthy
  systemctl is-enabled sprited
}
sprite_is_there() {
  sprite list
  equal "$(in_sprite first echo back)" back
  in_sprite first test -s /home/sprite/before-reboot
  in_sprite first test -s /home/sprite/data
}

phase "after the reboot"
check "machines did not hold up the reboot" shut_down_in_time
check "the service came by itself" service_came_by_itself
check "the sprite is there with its disk" sprite_is_there
