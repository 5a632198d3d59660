#!/bin/bash
# Runs on a node as root: files into an encrypted volume and out of it again,
# with the client as it is and with cryptsetup, mkfs and cp, by turns and in
# memory. Prints a line "way direction seconds" for each that counts.
#   asroot.sh CLIENT ROUNDS FILES BYTES SMALL     FILES of BYTES, SMALL of 4 KiB
set -euo pipefail
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
client=$1 rounds=$2 files=$3 bytes=$4 small=$5
dir=$(mktemp -d /dev/shm/bench.XXXXXX)
mount -t tmpfs -o size=90% bench "$dir"
cd "$dir"
trap 'cd /; umount -q "$dir/mnt" || true; cryptsetup close bench-root 2>/dev/null || true; umount "$dir"; rmdir "$dir"' EXIT
export CLOISTER_HOME=$dir/home
mkdir from from/small mnt
for i in $(seq "$files"); do head -c "$bytes" /dev/urandom > "from/$i"; done
# One read and split: a program for each file would take minutes.
head -c $((small * 4096)) /dev/urandom | split -b 4096 -a 5 - from/small/
head -c 32 /dev/urandom > key
mib=$(( (files * bytes + small * 8192) / 1048576 + 32 ))

seconds() { # LABEL COMMAND
	local began=$EPOCHREALTIME ended
	"${@:2}"
	ended=$EPOCHREALTIME
	[ "$round" = 0 ] || awk -v b="$began" -v e="$ended" -v l="$1" 'BEGIN { printf "%s %.3f\n", l, e - b }'
}
create() { "$client" volume create v.luks --from from > /dev/null; }
extract() { "$client" volume extract v.luks --to out > /dev/null; }
as_root_in() {
	truncate -s "${mib}M" v.img
	cryptsetup luksFormat -q --key-file key --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --sector-size 4096 v.img
	cryptsetup open --key-file key v.img bench-root
	mkfs.ext4 -q /dev/mapper/bench-root
	mount /dev/mapper/bench-root mnt
	cp -r from/. mnt
	umount mnt
	cryptsetup close bench-root
}
as_root_out() {
	cryptsetup open --readonly --key-file key v.img bench-root
	mount -o ro /dev/mapper/bench-root mnt
	cp -r mnt out
	umount mnt
	cryptsetup close bench-root
}
same() { [ "$round" != 0 ] || { rm -rf out/lost+found; diff -r from out; }; }

for round in $(seq 0 "$rounds"); do
	seconds "copy in" cp -r from out; rm -r out
	seconds "cloister in" create
	seconds "cloister out" extract
	same; rm -r out v.luks home
	seconds "root in" as_root_in
	seconds "root out" as_root_out
	same; rm -r out v.img
done
