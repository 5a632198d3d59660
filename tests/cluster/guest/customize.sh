#!/bin/bash
# Turns a bootstrapped root directory into the guests' disk: users, keys, Slurm, NFS, quick boot.
#   customize.sh ROOTDIR
# One disk for all guests: who a guest is comes from its kernel command line (systemd.hostname=,
# cluster.role=head|login|compute). All secrets made here are throw-away and for tests only.
set -euo pipefail
R=$1 U=$1/etc/systemd/system
HERE=$(cd "$(dirname "$0")" && pwd)
cp -r --no-preserve=mode,ownership "$HERE/files/." "$R/"
chmod 755 "$R"/usr/local/sbin/*
: > "$R/etc/machine-id"; : > "$R/etc/fstab"; : > "$R/etc/hostname"

# -- users, their homes on what the head node exports, and keys that let them ssh between the nodes
for u in alice:2001 bob:2002 carol:2003; do
  n=${u%:*} id=${u#*:} h=$R/shared/home/${u%:*}
  echo "$n:x:$id:$id::/shared/home/$n:/bin/bash" >> "$R/etc/passwd"
  echo "$n:x:$id:" >> "$R/etc/group"; echo "$n:*:19000::::::" >> "$R/etc/shadow"
  echo "$n:$((id * 65536)):65536" | tee -a "$R/etc/subuid" >> "$R/etc/subgid"
  mkdir -p "$h/.ssh"
  ssh-keygen -q -t ed25519 -N '' -C "$n" -f "$h/.ssh/id_ed25519"
  cp "$h/.ssh/id_ed25519.pub" "$h/.ssh/authorized_keys"
  chmod 700 "$h" "$h/.ssh"; chmod 600 "$h/.ssh/authorized_keys"; chown -R "$id:$id" "$h"
done
mkdir -p "$R/shared/scratch"; chmod 1777 "$R/shared/scratch"
rm -f "$R"/etc/ssh/ssh_host_*
ssh-keygen -q -t ed25519 -N '' -C cluster -f "$R/etc/ssh/ssh_host_ed25519_key"
echo "* $(cut -d' ' -f1,2 "$R/etc/ssh/ssh_host_ed25519_key.pub")" > "$R/etc/ssh/ssh_known_hosts"
head -c 1024 /dev/urandom > "$R/etc/munge/munge.key"
chroot "$R" sh -c 'chown munge: /etc/munge/munge.key; chmod 400 /etc/munge/munge.key'
mkdir -p "$R/var/spool/slurmd" "$R/var/spool/slurmctld"
chroot "$R" sh -c 'mkdir -p /var/log/slurm; chown slurm: /var/spool/slurmctld /var/log/slurm'

# -- which units start
mkdir -p "$U/sysinit.target.wants" "$U/multi-user.target.wants"
ln -sf ../cluster-identity.service ../cluster-agent.service "$U/sysinit.target.wants/"
ln -sf ../cluster-shell.service ../shared.mount "$U/multi-user.target.wants/"
ln -sf /lib/systemd/system/multi-user.target "$U/default.target"
chroot "$R" systemctl -q enable munge slurmctld slurmd nfs-server ssh.service
chroot "$R" systemctl -q disable nfs-blkmap fsidd rpcbind.service rpcbind.socket nfs-client.target 2>/dev/null || true

# -- units that only cost time under emulation. What a session's lock or a user's login needs stays:
# logind, user-sessions, dbus, udevd, hostnamed. kmod-static-nodes too: it makes /dev/loop-control and
# /dev/mapper/control, whose modules then load on first use.
for u in getty@tty1.service serial-getty@ttyS0.service apt-daily.timer apt-daily-upgrade.timer \
  dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer qemu-guest-agent.service \
  systemd-udev-trigger.service systemd-remount-fs.service systemd-ask-password-{wall,console}.path \
  modprobe@{dm_mod,efi_pstore,fuse,loop,drm,configfs}.service dev-hugepages.mount \
  sys-kernel-{debug,tracing,config}.mount proc-sys-fs-binfmt_misc.automount systemd-initctl.socket \
  rpcbind.{service,socket} rpc-statd-notify.service nfs-blkmap.service nfs-idmapd.service \
  nfsdcld.service run-rpc_pipefs.mount rpc-svcgssd.service rpc-gssd.service \
  ldconfig.service systemd-{update-utmp,update-utmp-runlevel,journal-flush,random-seed}.service \
  systemd-{pcrphase,pcrphase-sysinit,pcrmachine,tpm2-setup,tpm2-setup-early,pstore,hwdb-update}.service \
  systemd-{binfmt,journal-catalog-update,update-done,udev-load-credentials,sysusers}.service \
  systemd-{network-generator,networkd-wait-online,time-wait-sync,firstboot,machine-id-commit}.service
do ln -sf /dev/null "$U/$u"; done
mkdir -p "$R/etc/systemd/system-generators"
for g in "$R"/usr/lib/systemd/system-generators/*; do
  ln -sf /dev/null "$R/etc/systemd/system-generators/${g##*/}"
done
rm -f "$U"/getty.target.wants/*
# gpg is there for tests/bench alone: users of a cluster have no agent waiting for them.
rm -f "$R"/etc/systemd/user/sockets.target.wants/gpg-agent*
touch "$R/etc/.updated" "$R/var/.updated"
rm -rf "$R"/var/lib/apt/lists/* "$R"/var/cache/apt/*
