/*
 * Fuzz the reply's decoder and the environment's filter.
 *
 * LLVMFuzzerTestOneInput is libFuzzer's entry, for those who have clang. Alone
 * (gcc) this program mutates the corpus itself: fuzz SECONDS FILE...
 */
#include "claim.h"
#include "environment.h"
#include "message.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "fuzz: broken: %s\n", what);
		abort();
	}
}

static void one_reply(const char *copy, size_t size, enum cl_ask ask)
{
	static struct cl_reply r;
	const char *why;

	if (cl_parse_reply(copy, size, ask, &r, &why) < 0)
		return;
	require((r.verdict >= CL_RELEASED) == (ask == CL_ASK_END), "verdict kind");
	require((r.verdict == CL_ADMIT) == (r.out != NULL), "paths");
	for (size_t i = 0; i < r.nenv; i++)
		require(strchr(r.env[i], '=') > r.env[i], "variable name");
	for (size_t i = 0; i < r.nmessages; i++)
		require(!strchr(r.messages[i], '\n'), "message line");
}

static void one_environment(char *copy, size_t size)
{
	char *env[65] = { NULL };
	size_t n = 0, stay;

	for (size_t at = 0; n < 64 && at < size; at += strlen(copy + at) + 1)
		env[n++] = copy + at;
	stay = cl_env_filter(env);
	for (size_t i = 0; i < 65; i++)
		require((env[i] != NULL) == (i < stay), "compacted");
	for (size_t i = 0; i < stay; i++)
		require(strncmp(env[i], "LD_", 3) && !strpbrk(env[i], "$`;\n /"),
			"nothing that runs code");
}

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
static void one_claim(char *copy, size_t size)
{
	char *strings[65] = { NULL }, *bytes;
	struct cl_claim c = { .cwd = "/", .argv = strings, .env = strings };
	size_t n = 0, covered = 0, found = 0;
	ssize_t len;

	for (size_t at = 0; n < 64 && at < size; at += strlen(copy + at) + 1)
		strings[n++] = copy + at;
	c.argc = (int)n;
	for (size_t i = 0; i < n; i++)
		covered += strncmp(strings[i], "SLURM", 5) != 0;
	len = cl_claim_write(&c, &bytes);
	require(len > 0 && bytes[len - 1] == '\0', "claim");
	for (ssize_t at = 0; at < len; at += (ssize_t)strlen(bytes + at) + 1)
		found += strncmp(bytes + at, "env=", 4) == 0;
	require(found == covered, "covered variables");
	free(bytes);
	require(cl_env_filter_proven(strings) <= n, "proven variables");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *copy = malloc(size + 1);

	memcpy(copy, data, size);
	/* exact size for the sanitizer: the decoder must not need the NUL */
	copy = realloc(copy, size ? size : 1);
	one_reply(copy, size, CL_ASK_LAUNCH);
	one_reply(copy, size, CL_ASK_END);
	if (size) {
		copy[size - 1] = '\0';
		one_environment(copy, size);
		one_claim(copy, size);
		one_proof(copy);
	}
	free(copy);
	return 0;
}

#ifndef LIBFUZZER
static uint64_t state = 88172645463325252ULL;

static size_t roll(size_t n)
{
	state ^= state << 13, state ^= state >> 7, state ^= state << 17;
	return n ? state % n : 0;
}

static size_t mutate(uint8_t *b, size_t n, size_t cap)
{
	for (size_t k = roll(4) + 1; k > 0; k--) {
		size_t at = roll(n), len = roll(n - at) + (n > at);

		switch (roll(5)) {
		case 0: /* a bit */
			if (n)
				b[at] ^= (uint8_t)(1u << roll(8));
			break;
		case 1: /* a byte that matters */
			if (n)
				b[at] = (uint8_t) "\0=/1\n%"[roll(6)];
			break;
		case 2: /* a piece out */
			memmove(b + at, b + at + len, n - at - len);
			n -= len;
			break;
		case 3: /* a piece twice */
			if (n + len <= cap) {
				memmove(b + at + len, b + at, n - at);
				n += len;
			}
			break;
		case 4: /* the end off */
			n = at;
			break;
		}
	}
	return n;
}

int main(int argc, char **argv)
{
	static uint8_t seeds[64][8192], work[16384];
	size_t sizes[64], n = 0, runs = 0;
	time_t end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 1);

	for (int i = 2; i < argc && n < 64; i++) {
		FILE *f = fopen(argv[i], "rb");

		require(f != NULL, argv[i]);
		sizes[n] = fread(seeds[n], 1, sizeof(seeds[n]), f);
		LLVMFuzzerTestOneInput(seeds[n], sizes[n]);
		n++;
		fclose(f);
	}
	require(n > 0, "usage: fuzz SECONDS FILE...");
	do {
		for (int i = 0; i < 1000; i++, runs++) {
			size_t s = roll(n), size = sizes[s];

			memcpy(work, seeds[s], size);
			size = mutate(work, size, sizeof(work));
			LLVMFuzzerTestOneInput(work, size);
		}
	} while (time(NULL) < end);
	printf("fuzz: ok, %zu inputs from %zu seeds\n", runs, n);
	return 0;
}
#endif
