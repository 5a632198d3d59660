#!/bin/sh
# What must be true of the built files: built.sh BUILD-DIRECTORY
set -eu
mark=cloister-mutants-build-do-not-ship
mutants=$1/mutants/cloister-secure.so
fail() { echo "built: $1" >&2; exit 1; }

grep -q "$mark" "$mutants" || fail "the mutants build has no mark"

# SO VISIBLE BYTES: the symbols that are looked up, and the largest size
check() {
	so=$1/$2
	! grep -q "$mark" "$so" || fail "$2: the release build has the mutants' mark"
	! grep -q cloister-mutants "$so" || fail "$2: the release build reads the mutants file"
	# only what is looked up is visible, and only libc is needed
	nm -D --defined-only "$so" | awk '{print $3}' | grep -vE "^($3)\$" &&
		fail "$2: a symbol is visible that nobody asks for"
	readelf -d "$so" | grep NEEDED | grep -v 'libc\.so\.6' && fail "$2: a library is needed"
	readelf -d "$so" | grep -q BIND_NOW || fail "$2: not linked with -z now"
	readelf -lW "$so" | grep -q GNU_RELRO || fail "$2: not linked with -z relro"
	readelf -lW "$so" | grep GNU_STACK | grep -q RWE && fail "$2: an executable stack"
	readelf -lW "$so" | grep -q ' TLS ' && fail "$2: thread-local storage"
	size=$(stat -c %s "$so")
	[ "$size" -le "$4" ] || fail "$2: $size bytes"
	echo "built: $2 ok, $size bytes"
}

check "$1" cloister.so 'slurm_spank_[a-z_]+|plugin_(name|type|version)|spank_plugin_version' 16384
check "$1" cloister-secure.so 'cl_work_[0-9]+' 100000
# Each of its symbols that is another library's is looked for at every sbatch.
needed=$(nm -D --undefined-only "$1/cloister.so" | grep -c ' U ')
[ "$needed" -le 16 ] || fail "cloister.so binds $needed symbols"
