#!/bin/bash
# Makes in the empty directory OUT: root.img (raw ext4, the disk under all guests' overlays), vmlinuz,
# initrd.gz and include/slurm (the headers of the guests' Slurm).
#   OUT=dir image.sh        run from the directory that holds this script
# The Debian mirror is this host's own. apptainer is not in trixie: that one package comes from sid.
set -euo pipefail
: "${OUT:?}"
HERE=$(cd "$(dirname "$0")" && pwd)
SUITE=trixie
R=$OUT/rootfs
MIRROR=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
  sed 's/#.*//' | grep -oE 'https?://[^ ]*/debian/?( |$)' | head -1 | tr -d ' ') || true
[ -n "$MIRROR" ] || { echo "image.sh: no Debian mirror (an address ending in /debian) in /etc/apt/sources*" >&2; exit 1; }

cat > "$OUT/sid.pref" <<'P'
Package: *
Pin: release n=sid
Pin-Priority: 50

Package: apptainer
Pin: release n=sid
Pin-Priority: 900
P

# Kernel and headers are only unpacked: installing the kernel would pull in initramfs-tools, and the
# guests need no compiler.
cat > "$OUT/fetch.sh" <<'P'
set -e
mkdir -p /unpack; cd /unpack
kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
apt-get -q download "$kernel" libslurm-dev
P

# Check-Valid-Until: a mirror's copy of sid can carry an expired Release file.
mmdebstrap --quiet --variant=minbase \
  --aptopt='Apt::Install-Recommends "false"' --aptopt='Acquire::Check-Valid-Until "false"' \
  --aptopt='Acquire::Languages "none"' \
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
  --dpkgopt='force-unsafe-io' \
  --include="$(grep -v '^#' "$HERE/packages.txt" | paste -sd,)" \
  --setup-hook="cp '$OUT/sid.pref' \"\$1\"/etc/apt/preferences.d/sid.pref" \
  --customize-hook="cp '$OUT/fetch.sh' \"\$1\"/fetch.sh; chroot \"\$1\" sh /fetch.sh; rm \"\$1\"/fetch.sh" \
  "$SUITE" "$R" "deb $MIRROR $SUITE main" "deb $MIRROR sid main"

mkdir "$OUT/kernel" "$OUT/headers"
dpkg-deb -x "$R"/unpack/linux-image-*.deb "$OUT/kernel"
dpkg-deb -x "$R"/unpack/libslurm-dev_*.deb "$OUT/headers"
rm -r "$R/unpack"
test -f "$OUT/headers/usr/include/slurm/spank.h"
mkdir "$OUT/include"; cp -a "$OUT/headers/usr/include/slurm" "$OUT/include/"
cp "$OUT"/kernel/boot/vmlinuz-* "$OUT/vmlinuz"

MODULES=$(find "$OUT/kernel" -type d -path '*/lib/modules/*' -prune | head -1)
KV=${MODULES##*/}
mkdir -p "$R/usr/lib/modules"; cp -a "$MODULES" "$R/usr/lib/modules/"
chroot "$R" depmod "$KV"

bash "$HERE/customize.sh" "$R"
KV=$KV R=$R OUT=$OUT bash "$HERE/initrd.sh"
mke2fs -q -t ext4 -m0 -J size=16 -E lazy_itable_init=1,lazy_journal_init=1 -d "$R" "$OUT/root.img" 6G
rm -rf --one-file-system "$R" "$OUT/kernel" "$OUT/headers" "$OUT/sid.pref" "$OUT/fetch.sh"
chmod 444 "$OUT/root.img"
