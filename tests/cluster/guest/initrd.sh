#!/bin/bash
# Makes $OUT/initrd.gz: static busybox and the drivers of the guest's own disk, then switch_root.
#   R=root-directory KV=kernel-version OUT=dir initrd.sh
# With "cluster.probe" on the kernel command line it says so and powers off: that is how the host asks
# whether its KVM really runs guests.
set -euo pipefail
I=$OUT/initrd.d
mkdir -p "$I"/{bin,mods,newroot,proc,sys,dev}
cp "$R/usr/bin/busybox" "$I/bin/"
: > "$I/mods/order"
for m in virtio_pci virtio_blk virtio_net virtio_rng virtio_console ext4; do
  chroot "$R" modprobe -S "$KV" --show-depends "$m" | awk '/^insmod/{print $2}' | while read -r f; do
    b=$(basename "${f%.xz}")
    if grep -qx "$b" "$I/mods/order"; then continue; fi
    case $f in *.xz) xz -dc "$R$f" > "$I/mods/$b";; *) cp "$R$f" "$I/mods/$b";; esac
    echo "$b" >> "$I/mods/order"
  done
done
cat > "$I/init" <<'S'
#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc p /proc; $B mount -t devtmpfs d /dev; $B mount -t sysfs s /sys
if $B grep -q cluster.probe /proc/cmdline; then echo "cluster: probe booted" > /dev/console; $B poweroff -f; fi
for m in $($B cat /mods/order); do $B insmod /mods/$m 2>/dev/null; done
n=0; while [ ! -b /dev/vda ] && [ $n -lt 500 ]; do $B usleep 20000; n=$((n+1)); done
$B mount -t ext4 -o rw,noatime /dev/vda /newroot || { echo "initrd: no root" > /dev/console; $B poweroff -f; }
$B mount --move /dev /newroot/dev; $B umount /proc /sys
exec $B switch_root /newroot /sbin/init
S
chmod +x "$I/init"
(cd "$I" && find . | cpio -o -H newc --quiet) | gzip -1 > "$OUT/initrd.gz"
rm -rf "$I"
