# Everything goes: sprites, then the machines in order, then the programs. Nothing stays behind.
# shellcheck shell=bash disable=SC2154,SC2016

destroy() {
  sprite destroy first --force
  fails in_sprite first true
  sprite create last --skip-console
  in_sprite last true
}
# traces: what sprites leave on a host, a line each.
traces() {
  awk '$5 != "/var/cache/sprites" && /sprite|mch-/ { print "mount", $5 }' /proc/self/mountinfo
  losetup --all --noheadings --output NAME,BACK-FILE | sed 's/^/loop /'
  ip -o link | sed -n 's/^[0-9]*: \(spr[^:@]*\).*/interface \1/p'
  ip rule list | sed -n '/sprite/p'
  nft list tables | sed -n '/sprites/s/^/nft /p'
  machine_groups | sed 's/^/cgroup /'
  find /sys/fs/cgroup -maxdepth 1 -name 'sprites*' | sed 's/^/cgroup /'
  find /run/netns -mindepth 1 -printf 'namespace %f\n' 2>/dev/null
  pgrep -a '^sprite' | sed 's/^/process /'
  find /run/systemd/network /run/NetworkManager -name '*sprite*' 2>/dev/null | sed 's/^/file /'
}
no_traces() { [ -z "$(traces)" ]; }
stop_takes_everything() {
  [ -n "$(guests)" ]
  sprited stop
  eventually 90 no_traces || { traces; return 1; }
  equal "$(systemctl show -p ActiveState --value sprited)" inactive
  # A stop that was asked for is not a failure to be restarted.
  equal "$(systemctl show -p Result --value sprited)" success
}
forwarding_as_before() {
  # The machine began without forwarding.
  equal "$(cat /proc/sys/net/ipv4/ip_forward)" 0
}
kill_all_is_survived() {
  systemctl start sprited
  eventually 90 healthy
  in_sprite last true
  [ -n "$(guests)" ]
  systemctl kill --kill-whom=all --signal=KILL sprited
  eventually 90 healthy
  equal "$(in_sprite last echo again)" again
  sprited stop
  eventually 90 no_traces || { traces; return 1; }
}
uninstall() {
  systemctl disable --now sprited
  rm -rf /etc/systemd/system/sprited.service /etc/systemd/system/sprited.service.d /usr/bin/sprite*
  systemctl daemon-reload
  eventually 90 no_traces || { traces; return 1; }
  equal "$(systemctl --failed --no-legend | grep -c sprite || true)" 0
}

phase "taking it away"
check "destroy" destroy
check "sprited stop ends machines and leaves nothing behind" stop_takes_everything
check "forwarding is as it was" forwarding_as_before
check "killing everything of the unit is survived too" kill_all_is_survived
check "uninstalled, nothing is left" uninstall
