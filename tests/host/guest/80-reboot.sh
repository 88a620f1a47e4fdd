# Leaves a sprite running and reboots: systemd must not have to wait for machines.
# shellcheck shell=bash disable=SC2154,SC2016

leave_something() {
  in_sprite first sh -c 'date >/home/sprite/before-reboot && sync'
  guests
}

phase "before a reboot"
check "a sprite runs and has written a file" leave_something
# shellcheck disable=SC2034 # read by ./run
reboot_after=yes
