package stepproof

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// prover is a program of the plugin's own files that prints the proof for its
// environment, made with the key in the file of its first argument, and then
// the claim.
const prover = `
#define _GNU_SOURCE
#include "proof.h"
#include <stdio.h>
#include <stdlib.h>
extern char **environ;
int main(int argc, char **argv)
{
	char proof[CL_PROOF_BYTES_MAX + 1], why[256] = "", *bytes;
	struct cl_claim c = { .job = 7, .step = 3, .uid = 2001, .nodes = 1, .tasks = 2,
		.cwd = "/data", .argv = argv + 2, .argc = argc - 2, .env = environ };
	ssize_t n;
	if (cl_prove(argv[1], &c, proof, why, sizeof(why)) != 0)
		return fprintf(stderr, "%s\n", why), 1;
	printf("%s%c", proof, 0);
	n = cl_claim_write(&c, &bytes);
	fwrite(bytes, 1, n, stdout);
	free(bytes);
	return 0;
}`

func TestTheProofThatSrunMakesIsTheOneThatNodedWants(t *testing.T) {
	dir, src := t.TempDir(), filepath.Join("..", "..", "cgo", "plugin")
	main, program, keyFile := filepath.Join(dir, "prover.c"), filepath.Join(dir, "prover"), filepath.Join(dir, "key")
	if err := os.WriteFile(main, []byte(prover), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("gcc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-I", src,
		"-o", program, main, filepath.Join(src, "proof.c"), filepath.Join(src, "claim.c"), filepath.Join(src, "message.c")).CombinedOutput(); err != nil {
		t.Fatalf("compiling the plugin's files: %v: %s", err, out)
	}
	k := key(t)
	if err := os.WriteFile(keyFile, k.Reveal(), 0o400); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, keyFile, "/bin/echo", "", "ü two")
	cmd.Env = []string{"Z=1", "SLURM_JOB_ID=7", "A=two\nlines", "BASH_FUNC_f%%=() {  :\n}", "ASAN_OPTIONS=detect_leaks=0", "BIG=" + strings.Repeat("x", 100<<10)}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("proving: %v", err)
	}
	text, bytes, _ := strings.Cut(string(out), "\x00")
	parts := strings.Split(text, ":")
	if len(parts) != 4 || parts[0] != "1" || parts[3] != "/data" {
		t.Fatalf("the proof is %q", text)
	}
	c, err := Parse([]byte(bytes))
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Check(c, parts[2]); err != nil || c.Nonce != parts[1] {
		t.Errorf("the proof %q of %+v: %v", text, c, err)
	}
	for _, want := range []string{"\x00arg=/bin/echo\x00arg=\x00arg=ü two\x00env=A=two\nlines\x00", "\x00env=BASH_FUNC_f%%=() {  :\n}\x00"} {
		if !strings.Contains(bytes, want) {
			t.Errorf("the claim lacks %q", want)
		}
	}
	if strings.Contains(bytes, "SLURM") {
		t.Error("the claim has a variable that Slurm changes on the way")
	}
	if err := key(t).Check(c, parts[2]); err == nil {
		t.Error("another session takes the proof")
	}
	if again := fmt.Sprintf("%s", k); strings.Contains(again, string(k.Reveal())) {
		t.Error("the key prints itself")
	}
}
