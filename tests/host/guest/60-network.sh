# apt-get through NAT and DNS, and everything a sprite must not reach.
# shellcheck shell=bash disable=SC2154,SC2016

apt_get() {
  in_sprite first sudo sh -ec 'apt-get -qq update && apt-get -qq install -y jq >/dev/null && echo "[1]" | jq .[0]'
}

# Behind this host there is another network: a private address, and the metadata address of clouds.
lan_of_the_host() {
  ip netns add lan
  ip link add lan0 type veth peer name lan1 netns lan
  ip addr add 10.99.0.1/24 dev lan0
  ip link set lan0 up
  ip -n lan addr add 10.99.0.2/24 dev lan1
  ip -n lan link set lan1 up
  ip -n lan link set lo up
  ip -n lan addr add 169.254.169.254/32 dev lo
  ip -n lan route add default via 10.99.0.1
  ip route add 169.254.169.254/32 via 10.99.0.2
  systemd-run --quiet --unit=lan-server ip netns exec lan python3 -m http.server 80 --directory /var/empty
  systemd-run --quiet --unit=host-server python3 -m http.server 8000 --directory /var/empty
  mkdir -p /var/empty
  eventually 90 curl -s -o /dev/null --max-time 2 http://169.254.169.254/
  eventually 90 curl -s -o /dev/null --max-time 2 http://10.99.0.2/
  eventually 90 curl -s -o /dev/null --max-time 2 http://127.0.0.1:8000/
}
# reaches SPRITE ADDRESS PORT: a TCP connection comes about.
reaches() { in_sprite "$1" timeout 3 bash -c "exec 3<>/dev/tcp/$2/$3" 2>&1; }
gateway() { in_sprite first sh -c "ip route show default | sed -n 's/.*via \([0-9.]*\).*/\1/p'"; }

no_metadata() { fails reaches first 169.254.169.254 80; }
no_private_network() {
  fails reaches first 10.99.0.2 80
  fails reaches first 10.99.0.1 8000
}
no_ports_of_the_host() {
  local address
  address=$(gateway)
  fails reaches first "$address" 8000
  fails reaches first "$address" 7780
  # The host's own address, and the emulator's.
  fails reaches first 10.0.2.15 8000
  fails reaches first 10.0.2.2 22
  fails reaches first 127.0.0.1 7780
}
no_neighbours() {
  sprite create second --skip-console
  local address
  address=$(in_sprite second sh -c 'hostname -I' | tr -d ' ')
  in_sprite second sh -c 'python3 -m http.server 9000 >/dev/null 2>&1 & echo $!'
  eventually 90 in_sprite second bash -c "exec 3<>/dev/tcp/127.0.0.1/9000" || {
    # Commands of a finished session may have gone with it.
    sprite exec --sprite second --no-stdin -- python3 -m http.server 9000 >/dev/null 2>&1 &
    eventually 90 in_sprite second bash -c "exec 3<>/dev/tcp/127.0.0.1/9000"
  }
  fails reaches first "$address" 9000
  fails in_sprite first ping -c 1 -W 2 "$address"
}
names_resolve() {
  local name
  name=$(archive)
  in_sprite first getent ahostsv4 "${name#*://}"
}
nothing_over_ipv6() { in_sprite first sh -c '! ip -6 addr show scope global | grep -q inet6'; }
networkd_leaves_ours_alone() {
  networkctl list --no-legend
  networkctl list --no-legend | awk '$2 ~ /^spr/ { print; if ($5 != "unmanaged") bad = 1 } END { exit bad }'
}
stop_lan() {
  systemctl stop lan-server host-server
  ip netns del lan
}

phase "network"
check "names resolve" names_resolve
check "apt-get installs a package" apt_get
check "there are hosts and ports that must not be reached" lan_of_the_host
check "not the metadata address" no_metadata
check "not a private network of the host" no_private_network
check "not the ports of the host" no_ports_of_the_host
check "not a neighbour" no_neighbours
check "no IPv6" nothing_over_ipv6
check "networkd leaves our interfaces alone" networkd_leaves_ours_alone
check "the other network is gone again" stop_lan
