# That this is a host as users have them: if one of these fails, the others prove less.
# shellcheck shell=bash disable=SC2154,SC2016

distribution_kernel() {
  uname -r
  uname -r | grep -q -- '-cloud-amd64$'
  echo "note: $(uname -r), $(. /etc/os-release && echo "$PRETTY_NAME"), $(systemctl --version | head -n1)"
}
systemd_and_cgroup2() {
  equal "$(cat /proc/1/comm)" systemd
  equal "$(stat -f -c %T /sys/fs/cgroup)" cgroup2fs
  fails grep -q ' - cgroup ' /proc/self/mountinfo
  grep -q memory /sys/fs/cgroup/cgroup.controllers
}
booted_cleanly() {
  systemctl --failed --no-legend
  equal "$(systemctl --failed --no-legend | wc -l)" 0
}
apparmor() { equal "$(cat /sys/module/apparmor/parameters/enabled)" Y; }
modules() {
  local module
  # Some, such as loop, are here since the system started.
  sort /proc/modules | cut -d' ' -f1 | paste -sd' ' >"$state/modules"
  for module in loop fuse veth nf_tables tun; do
    modinfo -F filename "$module"
    case $module in loop | fuse) ;; *) fails grep -q "^$module " /proc/modules ;; esac
  done
}
network() {
  eventually 90 systemctl is-active --quiet systemd-networkd-wait-online
  grep -q '^nameserver 127.0.0.53' /etc/resolv.conf
  curl -sS --max-time 20 -o /dev/null "$(archive)/"
}

phase "the machine"
check "the kernel is the distribution's cloud kernel" distribution_kernel
check "systemd runs it, with cgroup version 2 alone" systemd_and_cgroup2
check "every unit started" booted_cleanly
check "AppArmor is enabled" apparmor
check "loop and fuse are modules; veth, nf_tables and tun are not loaded yet" modules
check "names resolve through 127.0.0.53 and the distribution's archive answers" network
