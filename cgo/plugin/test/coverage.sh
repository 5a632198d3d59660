#!/bin/sh
# What the committed corpus reaches, without any fuzzing: coverage.sh
# BUILD-DIRECTORY NAME...
set -eu
out=$1/coverage
shift
: "${CLANG:=clang-14}" "${LLVM:=-14}"
mkdir -p "$out"
objects='' profiles=''
for name; do
	$CLANG -std=gnu11 -g -O1 -fsanitize=fuzzer -fprofile-instr-generate -fcoverage-mapping -I. -Itest \
		-o "$out/$name" "test/fuzz-$name.c" message.c environment.c client.c
	LLVM_PROFILE_FILE=$out/$name.profile "$out/$name" -runs=0 "test/corpus/$name" 2>/dev/null
	# the first stands alone, llvm-cov wants it so
	objects="$objects ${objects:+-object} $out/$name" profiles="$profiles $out/$name.profile"
done
"llvm-profdata$LLVM" merge -sparse -o "$out/all.profile" $profiles
"llvm-cov$LLVM" report $objects -instr-profile "$out/all.profile" message.c environment.c client.c
"llvm-cov$LLVM" show $objects -instr-profile "$out/all.profile" message.c environment.c client.c >"$out/lines.txt"
echo "coverage: line by line in $out/lines.txt"
