#!/bin/sh
# Run the fuzz targets, each over its corpus and then on from there for some
# seconds: fuzz.sh BUILD-DIRECTORY SECONDS NAME...
# What is found stays in the build directory; the corpus is not changed.
set -eu
out=$1 seconds=$2
shift 2
for name; do
	corpus=test/corpus/$name found=$out/found/$name
	[ -n "$(ls "$corpus")" ] || { echo "fuzz: $corpus is empty" >&2; exit 1; }
	mkdir -p "$found"
	"$out/fuzz-$name" -max_len=66000 -len_control=100 -max_total_time="$seconds" -timeout=10 -print_final_stats=1 \
		-artifact_prefix="$found/" "$found" "$corpus" >"$found.log" 2>&1 ||
		{ tail -n 40 "$found.log" >&2; echo "fuzz: $name is broken; the input is in $found" >&2; exit 1; }
	echo "fuzz: $name ok, $(awk '/number_of_executed_units/ {print $2}' "$found.log") inputs from $(ls "$corpus" | wc -l) seeds"
done
