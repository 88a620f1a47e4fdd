# The service, a token, and a person who logs in with it.
# shellcheck shell=bash disable=SC2154,SC2016

service_starts() {
  systemctl enable --now sprited
  eventually 90 healthy
  systemctl show -p ActiveState -p SubState -p MainPID sprited
}
person_logs_in() {
  sprited token create --org home --quiet >"$state/token"
  grep -q '^home/' "$state/token"
  person sprite login "$api" <"$state/token"
  person sprite list
}
doctor_beside_a_running_service() { sprited doctor; }

phase "the service"
check "systemd starts it and /healthz answers" service_starts
check "a person logs in with a token" person_logs_in
check "doctor still passes beside it" doctor_beside_a_running_service
