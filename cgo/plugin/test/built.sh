#!/bin/sh
# What must be true of the built files: built.sh BUILD-DIRECTORY
set -eu
mark=cloister-mutants-build-do-not-ship
so=$1/cloister.so mutants=$1/mutants/cloister.so
fail() { echo "built: $1" >&2; exit 1; }

grep -q "$mark" "$mutants" || fail "the mutants build has no mark"
! grep -q "$mark" "$so" || fail "the release build has the mutants' mark"
! grep -q cloister-mutants "$so" || fail "the release build reads the mutants file"

# only what Slurm looks up is visible, and only libc is needed
nm -D --defined-only "$so" | awk '{print $3}' |
	grep -vE '^(slurm_spank_[a-z_]+|plugin_(name|type|version)|spank_plugin_version)$' &&
	fail "a symbol is visible that Slurm does not ask for"
readelf -d "$so" | grep NEEDED | grep -v 'libc\.so\.6' && fail "a library is needed"
readelf -d "$so" | grep -q BIND_NOW || fail "not linked with -z now"
readelf -lW "$so" | grep -q GNU_RELRO || fail "not linked with -z relro"
readelf -lW "$so" | grep GNU_STACK | grep -q RWE && fail "an executable stack"
readelf -lW "$so" | grep -q ' TLS ' && fail "thread-local storage"
size=$(stat -c %s "$so")
[ "$size" -le 100000 ] || fail "$size bytes"
echo "built: ok, $size bytes"
