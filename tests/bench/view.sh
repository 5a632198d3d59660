# The job view by command lines, as noded/jobview builds it: `make bench` times
# both. It runs in fresh mount and IPC namespaces; hidden, home, cwd, script and
# user come in the environment. Left out, in its own favour: what is mounted
# below a top-level directory stays writable, and nothing is checked.
set -e
v=/tmp
mount -t tmpfs -o nosuid,nodev,mode=755,size=16m none $v
for d in /*; do
	case $d in
	/dev | /lost+found | /media | /mnt | /proc | /run | /tmp) continue ;;
	esac
	if [ -h "$d" ]; then
		ln -s "$(readlink "$d")" "$v$d"
	elif [ -d "$d" ]; then
		mkdir "$v$d"
		mount --rbind "$d" "$v$d"
		mount -o remount,bind,ro,nosuid,nodev "$v$d"
	fi
done
mkdir $v/dev $v/media $v/mnt $v/proc $v/run $v/tmp

spool=${script%/*/*}
for d in "$hidden" "$spool"; do
	mount -t tmpfs -o nosuid,nodev,mode=755,size=16m none "$v$d"
done
for d in /etc/cloister /var/lib/cloister /var/lib/private/cloister; do
	[ ! -d $d ] || mount -t tmpfs -o nosuid,nodev,ro none "$v$d"
done
mount -t proc -o nosuid,nodev,noexec,hidepid=invisible none $v/proc

mount -t tmpfs -o nosuid,nodev,mode=755,size=16m none $v/dev
for d in full fuse null random tty urandom zero; do
	[ -e /dev/$d ] || continue
	: >$v/dev/$d
	mount --bind /dev/$d $v/dev/$d
	mount -o remount,bind,nosuid,noexec $v/dev/$d
done
ln -s /proc/self/fd $v/dev/fd
ln -s /proc/self/fd/0 $v/dev/stdin
ln -s /proc/self/fd/1 $v/dev/stdout
ln -s /proc/self/fd/2 $v/dev/stderr
ln -s pts/ptmx $v/dev/ptmx
mkdir $v/dev/mqueue $v/dev/pts $v/dev/shm
mount -t devpts -o nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5 none $v/dev/pts
mount -t mqueue -o nosuid,nodev,noexec none $v/dev/mqueue

mount -t tmpfs -o nosuid,nodev,mode=755,size=16m none $v/run
if [ -d /run/munge ]; then
	mkdir $v/run/munge
	mount --bind /run/munge $v/run/munge
	mount -o remount,bind,ro,nosuid,nodev,noexec $v/run/munge
fi
for d in /tmp /var/tmp /dev/shm; do
	mount -t tmpfs -o nosuid,nodev,mode=1777,size=64m none $v$d
done
for d in "$home" "$cwd"; do
	mkdir -p "$v$d"
	mount -t tmpfs -o "nosuid,nodev,mode=700,uid=$user,gid=$user,size=64m" none "$v$d"
done
mkdir -p "$v${script%/*}"
printf '#!/bin/sh\necho verified\n' >"$v$script"
chown "$user:$user" "$v$script"
chmod 500 "$v$script"
for d in "$hidden" "$spool" /dev /run ''; do
	mount -o remount,bind,ro,nosuid,nodev "$v$d"
done
cd $v
pivot_root . .
umount -l .
echo stands
