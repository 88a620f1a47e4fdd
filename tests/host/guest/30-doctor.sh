# What `sprited doctor` says about a fresh host, and that it finds what is wrong with a broken one.
# shellcheck shell=bash disable=SC2154,SC2016

# doctor_finds ID STATUS: a finding of this kind is among those of the last `doctor --json`.
doctor_finds() {
  python3 - "$1" "$2" "$state/doctor.json" <<'END'
import json, sys
wanted, status, file = sys.argv[1:]
checks = [c for c in json.load(open(file))["checks"] if c["id"].startswith(wanted)]
print(json.dumps(checks, indent=1))
sys.exit(0 if any(c["status"] == status and (status == "ok" or c.get("fix")) for c in checks) else 1)
END
}

fresh_host_can_run_sprites() {
  sprited doctor | tee "$state/doctor.txt"
  # Only what is not in order is of interest to those who watch.
  sed -n '/^ok /d; s/^\(.\)/note: \1/p' "$state/doctor.txt"
}
unit_without_drop_in() {
  local drop_in=/etc/systemd/system/sprited.service.d
  [ -e "$drop_in" ] || return 0 # systemd is new enough
  mv "$drop_in" "$state/drop-in"
  systemctl daemon-reload
  sprited doctor --json >"$state/doctor.json" || true
  mv "$state/drop-in" "$drop_in"
  systemctl daemon-reload
  doctor_finds systemd warn
}
without_root() {
  fails person sprited doctor >"$state/doctor.txt"
  cat "$state/doctor.txt"
  grep -q 'sudo sprited doctor' "$state/doctor.txt"
}
findings_as_json() {
  sprited doctor --json >"$state/doctor.json"
  python3 -c 'import json, sys; assert json.load(open(sys.argv[1]))["checks"]' "$state/doctor.json"
}
forward_drop() {
  nft 'add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'
  sprited doctor --json >"$state/doctor.json" || true
  nft delete table ip filter
  cat "$state/doctor.json"
  doctor_finds network.forward warn || doctor_finds network.forward fail
}
taken_range() {
  ip link add vpn0 type veth peer name vpn1
  ip addr add 10.77.3.1/24 dev vpn0
  ip link set vpn1 up
  ip link set vpn0 up
  sprited doctor --json >"$state/doctor.json" || true
  ip link del vpn0
  cat "$state/doctor.json"
  doctor_finds network.range warn || doctor_finds network.range fail
}
core_pattern_with_a_pipe() {
  local before
  before=$(cat /proc/sys/kernel/core_pattern)
  echo '|/usr/bin/false %p' >/proc/sys/kernel/core_pattern
  sprited doctor --json >"$state/doctor.json" || true
  echo "$before" >/proc/sys/kernel/core_pattern
  cat "$state/doctor.json"
  doctor_finds core warn || doctor_finds core fail
}

phase "doctor"
check "a fresh host can run sprites, says doctor" fresh_host_can_run_sprites
check "its findings are there as JSON" findings_as_json
check "it finds a FORWARD chain that drops" forward_drop
check "it finds an address range that is taken" taken_range
check "it finds a core_pattern with a pipe" core_pattern_with_a_pipe
check "it finds a unit that this systemd could not start again" unit_without_drop_in
check "without root it says how to ask" without_root
