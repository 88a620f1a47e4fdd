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
# reaching ADDRESS PORT: what becomes of a TCP connection from the first sprite, as a word.
reaching() {
  in_sprite first bash -c 'timeout 2 bash -c "exec 3<>/dev/tcp/$1/$2" 2>/dev/null && echo open || echo closed' \
    reaching "$1" "$2"
}
closed() {
  echo "$1 port $2"
  equal "$(reaching "$1" "$2")" closed
}
gateway() { in_sprite first sh -c "ip route show default | sed -n 's/.*via \([0-9.]*\).*/\1/p'"; }

outside() {
  local name
  name=$(archive)
  equal "$(reaching "${name#*://}" 80)" open
}
no_metadata() { closed 169.254.169.254 80; }
no_private_network() {
  closed 10.99.0.2 80
  closed 10.99.0.1 8000
}
no_ports_of_the_host() {
  local address
  address=$(gateway)
  [ -n "$address" ]
  closed "$address" 8000
  closed "$address" 7780
  # The host's own address, and the emulator's, which answers on 53 with names.
  closed 10.0.2.15 8000
  closed 10.0.2.2 22
  closed 10.0.2.3 53
  closed 127.0.0.1 7780
  equal "$(reaching "$address" 53)" open
}
no_neighbours() {
  sprite create second --skip-console
  local address
  address=$(in_sprite second ip -4 -o addr show scope global | sed -n '1s/.* inet \([0-9.]*\).*/\1/p')
  [ -n "$address" ]
  sprite exec --sprite second --no-stdin -- python3 -m http.server 9000 >/dev/null 2>&1 &
  eventually 90 in_sprite second bash -c 'exec 3<>/dev/tcp/127.0.0.1/9000'
  # Its own address, so that what follows is not closed for another reason.
  in_sprite second bash -c "exec 3<>/dev/tcp/$address/9000"
  closed "$address" 9000
  in_sprite first sh -c "! ping -c 1 -W 2 $address"
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
# Debian's /etc/nftables.conf begins with `flush ruleset`.
firewall_reloaded() {
  local begin=$SECONDS
  grep -q '^flush ruleset' /etc/nftables.conf
  systemctl restart nftables
  eventually 90 nft list table inet sprites
  echo "note: the rules were back after $((SECONDS - begin)) s"
  closed 169.254.169.254 80
  outside
}
networkd_restarted() {
  systemctl restart systemd-networkd systemd-resolved
  eventually 90 curl -sS --max-time 20 -o /dev/null "$(archive)/"
  eventually 90 outside
  networkd_leaves_ours_alone
  sysctl --system >/dev/null
  eventually 90 outside
}
stop_lan() {
  systemctl stop lan-server host-server
  ip netns del lan
}

phase "network"
check "names resolve" names_resolve
check "the archive is reached" outside
check "apt-get installs a package" apt_get
check "there are hosts and ports that must not be reached" lan_of_the_host
check "not the metadata address" no_metadata
check "not a private network of the host" no_private_network
check "not the ports of the host" no_ports_of_the_host
check "not a neighbour" no_neighbours
check "no IPv6" nothing_over_ipv6
check "networkd leaves our interfaces alone" networkd_leaves_ours_alone
check "a reload of the host's firewall is mended" firewall_reloaded
check "networkd, resolved and sysctl.d may start over" networkd_restarted
check "the other network is gone again" stop_lan
