/*
 * libFuzzer target: what a step claims and proves. The input is the step's
 * arguments and variables alike, each ended by a NUL; the first of them is read
 * as a proof too.
 */
#include "claim.h"
#include "environment.h"
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

enum { STRINGS_MAX = 64 };

/* A proof that is read is written again as it was. */
static void one_proof(const char *text)
{
	char again[CL_PROOF_BYTES_MAX + 1];
	struct cl_proof p;

	if (cl_proof_read(text, &p) < 0)
		return;
	snprintf(again, sizeof(again), "1:%s:%s:%s", p.nonce, p.mac, p.cwd);
	require(!strcmp(text, again) && p.cwd[0] == '/', "proof");
}

/* A claim has every variable that is not Slurm's, and only those. */
static void one_claim(char **strings, size_t n)
{
	struct cl_claim c = { .cwd = "/", .argv = strings, .env = strings,
			      .argc = (int)n };
	size_t covered = 0, found = 0;
	char *bytes;
	ssize_t len;

	for (size_t i = 0; i < n; i++)
		covered += strncmp(strings[i], "SLURM", 5) != 0;
	len = cl_claim_write(&c, &bytes);
	require(len > 0 && bytes[len - 1] == '\0', "claim");
	for (ssize_t at = 0; at < len; at += (ssize_t)strlen(bytes + at) + 1)
		found += strncmp(bytes + at, "env=", 4) == 0;
	require(found == covered, "covered variables");
	free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *strings[STRINGS_MAX + 1] = { NULL };
	char *copy = malloc(size + 1);
	size_t n = 0;

	require(copy != NULL, "memory");
	if (size)
		memcpy(copy, data, size);
	copy[size] = '\0';
	for (size_t at = 0; n < STRINGS_MAX && at < size;
	     at += strlen(copy + at) + 1)
		strings[n++] = copy + at;
	one_proof(copy);
	one_claim(strings, n);
	require(cl_env_filter_proven(strings) <= n, "proven variables");
	free(copy);
	return 0;
}
