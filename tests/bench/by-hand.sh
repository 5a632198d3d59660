#!/bin/bash
# What a session does before a job's first instruction, by the command lines
# that an administrator would write: `make bench` runs it on the node on which
# it times Cloister. It ends with the undoing.
#
# Standard output: one line a step, "NAME MICROSECONDS", and "first SECONDS",
# which the job prints itself. by-hand.env, beside this file, names the volume's
# parameters and the KMS; the files it needs lie there too:
#   signed, sig   the sealed job as far as it is signed, and its signature
#   payload.cms   the job's script, encrypted to node.pem
#   token         a wrapping token with both volume keys
#   rules.nft     the lock, as nft printed it during a session
# The guest has no age, gpg or curl: openssl cms stands for the first two and
# openssl s_client for the third.
set -euo pipefail
here=$(dirname "$0")
. "$here/by-hand.env"

if [ "${1-}" = view ]; then
	# Inside the new namespaces: hide, mount, become the user, run.
	mount -o remount,bind,ro,nosuid /
	mount -t tmpfs -o nosuid,nodev none /tmp
	mount -t tmpfs -o nosuid,nodev none /var/tmp
	mount -t tmpfs -o nosuid,nodev none /dev/shm
	mount -t tmpfs -o nosuid,nodev,mode=755 none /shared
	mount -t tmpfs -o nosuid,nodev,mode=755 none /mnt
	mkdir /mnt/data /mnt/results
	map="u:0:$user_id:1 g:0:$user_id:1"
	mount -t ext4 -o "ro,nosuid,nodev,noatime,X-mount.idmap=$map" /dev/mapper/byhand-in /mnt/data
	mount -t ext4 -o "nosuid,nodev,noatime,X-mount.idmap=$map" /dev/mapper/byhand-out /mnt/results
	exec setpriv --reuid="$user_id" --regid="$user_id" --init-groups --no-new-privs \
		--inh-caps=-all --bounding-set=-all --reset-env bash /run/by-hand/job.sh
fi

began=$EPOCHREALTIME
# lap NAME: what passed since the last one.
last=$began
lap() {
	local now=$EPOCHREALTIME
	echo "$1 $((${now/./} - ${last/./}))"
	last=$EPOCHREALTIME
}

ssh-keygen -Y verify -f /etc/cloister/allowed_signers -I "$user" -n cloister-job -s "$here/sig" <"$here/signed" >/dev/null
lap 'verify the signature (ssh-keygen)'

install -d -m 755 /run/by-hand
openssl cms -decrypt -binary -inform DER -in "$here/payload.cms" -inkey "$here/node.pem" -recip "$here/node.pem" -out /run/by-hand/job.sh
lap 'decrypt (openssl cms)'

nft -f "$here/rules.nft"
lap 'lock the network (nft)'

systemctl -q mask --runtime --now ssh.service ssh.socket 2>/dev/null
lap 'stop and mask sshd (systemctl)'

token=$(<"$here/token")
answer=$(printf 'POST /v1/sys/wrapping/unwrap HTTP/1.1\r\nHost: %s\r\nX-Vault-Token: %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n' "$kms" "$token" |
	openssl s_client -quiet -verify_quiet -verify_return_error -CAfile /etc/cloister/kms-ca.pem -connect "$kms" 2>/dev/null)
[[ $answer =~ '"in":"'([A-Za-z0-9+/=]+) ]]; in_key=${BASH_REMATCH[1]}
[[ $answer =~ '"out":"'([A-Za-z0-9+/=]+) ]]; out_key=${BASH_REMATCH[1]}
lap 'fetch the keys (openssl s_client)'

# plain FILE-DEVICE NAME KEY [OPTION…]: no header is read and no KDF is run.
plain() {
	# A key file, not "-": cryptsetup hashes what it reads from its input.
	cryptsetup open -q --type plain --cipher aes-xts-plain64 --key-size 512 --key-file <(base64 -d <<<"$3") --keyfile-size 64 \
		--sector-size 4096 "${@:4}" "$1" "$2"
}
data=$(losetup --find --show --read-only --offset "$payload_offset" --sizelimit "$payload_size" "$in_file")
veritysetup open --no-superblock --format=1 --hash=sha256 --data-block-size=4096 --hash-block-size=4096 \
	--data-blocks="$data_blocks" --salt="$salt" --hash-offset="$hash_offset" "$data" byhand-verity "$in_file" "$root_hash"
plain /dev/mapper/byhand-verity byhand-in "$in_key" --readonly
lap 'open the data (losetup, verity-, cryptsetup)'

truncate -s "$out_size" "$out_file"
out=$(losetup --find --show "$out_file")
plain "$out" byhand-out "$out_key"
mkfs.ext4 -q -F -b 4096 -I 256 -m 0 -E lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0 /dev/mapper/byhand-out
lap 'make the results (… cryptsetup, mkfs.ext4)'

first=$(unshare --mount --ipc --propagation private "$0" view)
ended=$EPOCHREALTIME
echo "view, mounts, first line (unshare, mount) $((${first/./} - ${last/./}))"
echo "first-instruction $((${first/./} - ${began/./}))"

cryptsetup close byhand-out
cryptsetup close byhand-in
veritysetup close byhand-verity
losetup --detach "$out"
losetup --detach "$data"
rm -r /run/by-hand
nft delete table inet byhand
systemctl -q unmask --runtime ssh.service ssh.socket
systemctl -q start ssh.service
now=$EPOCHREALTIME
echo "release $((${now/./} - ${ended/./}))"
rm -f "$out_file"
