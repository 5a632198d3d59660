#!/bin/bash
# Run the analysis of an unpacked image as nobody, without network, with a
# read-only root. It may write to /results and, for its own time, to /tmp.
#
#   run.sh SQUASHFS DATA WORK     run as root; results in WORK/results
set -euo pipefail
SQUASHFS=$1 DATA=$2 W=$3
unsquashfs -q -n -d "$W/root" "$SQUASHFS" > /dev/null
mkdir -m 700 "$W/results"; chown 65534:65534 "$W/results"
export SQUASHFS DATA W
unshare --mount --net --ipc --pid --fork bash -euc '
  mount --bind "$W/root" "$W/root"
  mount -o remount,bind,ro,nosuid "$W/root"
  mount -t tmpfs -o mode=1777,nosuid,nodev tmp "$W/root/tmp"
  mount -t tmpfs -o mode=755,nosuid dev "$W/root/dev"
  mknod -m 666 "$W/root/dev/null" c 1 3
  mknod -m 666 "$W/root/dev/urandom" c 1 9
  mount -t proc proc "$W/root/proc"
  mount --bind "$DATA" "$W/root/data"
  mount -o remount,bind,ro "$W/root/data"
  mount --bind "$W/results" "$W/root/results"
  chroot=$(command -v chroot)
  env -i PATH=/usr/bin HOME=/nonexistent "$chroot" --userspec=65534:65534 "$W/root" \
    Rscript --vanilla /opt/analysis/analysis.R /data /results
  left=$(find "$W/root/tmp" -mindepth 1)
  [ -z "$left" ] || { echo "the analysis left in /tmp: $left" >&2; exit 1; }
'
