#!/bin/bash
# What a session does before a job's first instruction, by the command lines
# that an administrator would write: `make bench` runs it on the node on which
# it times Cloister. It ends with the undoing.
#
# Standard output: one line a step, "NAME MICROSECONDS", and "first SECONDS",
# which the job prints itself. by-hand.env, beside this file, names the volume's
# parameters and the KMS; what else it needs lies there too:
#   gnupg        the node's key and the user's public one, for gpg
#   payload.gpg  the job's script, signed by the user and encrypted to the node
#   token        a wrapping token with both volume keys
#   vault        the KMS's command line
#   rules.nft    the lock, as nft printed it during a session
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

install -d -m 755 /run/by-hand
status=$(gpg --homedir "$here/gnupg" --batch --quiet --trust-model always --status-fd 1 \
	--output /run/by-hand/job.sh --decrypt "$here/payload.gpg" 2>/dev/null)
[[ $status =~ "VALIDSIG $signer " ]]
lap 'verify and decrypt (gpg)'

nft -f "$here/rules.nft"
lap 'lock the network (nft)'

systemctl -q mask --runtime --now ssh.service ssh.socket 2>/dev/null
lap 'stop and mask sshd (systemctl)'

while read -r pid owner; do
	((owner < 1000 || owner == user_id)) || kill -KILL "$pid" || true
done < <(ps -e -o pid=,uid=)
lap "end other people's processes (ps)"

export VAULT_ADDR=https://$kms VAULT_CACERT=/etc/cloister/kms-ca.pem
answer=$(VAULT_TOKEN=$(<"$here/token") "$here/vault" unwrap -format=json)
[[ $answer =~ '"in": "'([A-Za-z0-9+/=]+) ]]; in_key=${BASH_REMATCH[1]}
[[ $answer =~ '"out": "'([A-Za-z0-9+/=]+) ]]; out_key=${BASH_REMATCH[1]}
lap 'fetch the keys (vault)'

setpriv --reuid="$user_id" --regid="$user_id" --init-groups test -r "$in_file"
data=$(losetup --find --show --read-only --offset "$payload_offset" --sizelimit "$payload_size" "$in_file")
veritysetup open --no-superblock --format=1 --hash=sha256 --data-block-size=4096 --hash-block-size=4096 \
	--data-blocks="$data_blocks" --salt="$salt" --hash-offset="$hash_offset" "$data" byhand-verity "$in_file" "$root_hash"
# Plain, as noded opens it: no header is read. A key file, not "-": cryptsetup
# hashes what it reads from its input.
cryptsetup open -q --type plain --cipher aes-xts-plain64 --key-size 512 --key-file <(base64 -d <<<"$in_key") --keyfile-size 64 \
	--sector-size 4096 --readonly /dev/mapper/byhand-verity byhand-in
lap 'open the data (losetup, verity-, cryptsetup)'

truncate -s "$out_size" "$out_file"
# With the least iterations: no KDF is timed.
cryptsetup luksFormat -q --type luks2 --cipher aes-xts-plain64 --key-size 512 --sector-size 4096 \
	--pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file <(printf %s "$out_key") --volume-key-file <(base64 -d <<<"$out_key") "$out_file"
cryptsetup open -q --type luks2 --volume-key-file <(base64 -d <<<"$out_key") "$out_file" byhand-out
mkfs.ext4 -q -F -b 4096 -I 256 -m 0 -E lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0 /dev/mapper/byhand-out
lap 'make the results (cryptsetup, mkfs.ext4)'

# Is the job still wanted, and alone? This one is no job, so none is there.
[ -z "$(squeue --noheader --nodelist="$HOSTNAME" --format=%A)" ]
lap 'ask Slurm about the job (squeue)'

first=$(unshare --mount --ipc --propagation private "$0" view)
ended=$EPOCHREALTIME
echo "view, mounts, first line (unshare, mount) $((${first/./} - ${last/./}))"
echo "first-instruction $((${first/./} - ${began/./}))"

cryptsetup close byhand-out
cryptsetup close byhand-in
veritysetup close byhand-verity
losetup --detach "$data"
rm -r /run/by-hand
nft delete table inet byhand
systemctl -q unmask --runtime ssh.service ssh.socket
systemctl -q start ssh.service
now=$EPOCHREALTIME
echo "release $((${now/./} - ${ended/./}))"
rm -f "$out_file"
