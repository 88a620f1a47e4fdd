# Installs the programs as packaging/README.md tells a person to.
# shellcheck shell=bash disable=SC2154,SC2016

install_programs() {
  install -m 755 "$here"/bin/{sprited,sprite-guestd,sprite,sprite-env} /usr/bin/
  sprited --version
  sprite --version
}
install_unit() {
  local version
  install -m 644 "$here/packaging/systemd/sprited.service" /etc/systemd/system/
  version=$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
  if [ "$version" -lt 254 ]; then
    install -D -m 644 -t /etc/systemd/system/sprited.service.d \
      "$here"/packaging/systemd/sprited.service.d/*
  fi
  systemctl daemon-reload
  equal "$(systemctl show -p LoadState --value sprited)" loaded
  # An older systemd ignores what it does not know, and says so.
  systemd-analyze verify sprited.service 2>&1 | grep -v 'DelegateSubgroup' >"$state/verify" || true
  equal "$(grep -c sprited "$state/verify" || true)" 0
}
# Building the image here would take a quarter of an hour of emulated time.
bring_the_image() {
  mkdir -p /var/cache/sprites /etc/sprites
  if ! mountpoint -q /var/cache/sprites; then
    echo "LABEL=images /var/cache/sprites ext4 defaults 0 0" >>/etc/fstab
    systemctl daemon-reload
    mount /var/cache/sprites
  fi
  printf '[image]\nname = "%s"\n' "$IMAGE" >/etc/sprites/sprited.toml
  sprited image list
  sprited image list | grep -q "$IMAGE"
}

phase "install"
check "the programs run on this release" install_programs
check "systemd takes the unit" install_unit
check "the base image is in the host's cache" bring_the_image
