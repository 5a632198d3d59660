# Sourced: runs one verb and keeps what came out of it.
# shellcheck shell=bash
OUT=/tmp/verbs
verb() {
	local name=$1
	shift
	timeout 150 "$@" </dev/null >"$OUT/$name.out" 2>"$OUT/$name.err"
	echo "exit status $?" >"$OUT/$name.exit"
}
# At most four at a time: the login node has one slow processor.
also() {
	while [ "$(jobs -rp | wc -l)" -ge 4 ]; do wait -n; done
	verb "$@" &
}
