/*
 * libFuzzer target: the decoder of noded's answers. What it takes must be what
 * the rest of the plugin relies on.
 */
#include "fuzz.h"
#include "message.h"

#include <stdlib.h>
#include <string.h>

static bool printable_line(const char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s < 0x20 || *s == 0x7f)
			return false;
	return true;
}

static void check_path(const char *path, bool wanted)
{
	require((path != NULL) == wanted, "a path where it belongs");
	require(!path || (path[0] == '/' && printable_line(path) &&
			  strlen(path) <= CL_PATH_BYTES_MAX),
		"a path is absolute and printable");
}

static void check_names(const struct cl_reply *r)
{
	for (size_t i = 0; i < r->nenv; i++) {
		size_t n = strcspn(r->env[i], "=");

		require(r->env[i][n] == '=' && n > 0, "NAME=VALUE");
		for (size_t k = 0; k < i; k++)
			require(strncmp(r->env[i], r->env[k], n + 1) != 0,
				"a name comes once");
	}
}

static void decode(const char *datagram, size_t size, enum cl_ask ask)
{
	static struct cl_reply r;
	const char *why = NULL;

	if (cl_parse_reply(datagram, size, ask, &r, &why) < 0) {
		require(why && *why, "a refusal has a reason");
		return;
	}
	require((r.verdict >= CL_RELEASED) == (ask == CL_ASK_END),
		"the verdict answers what was asked");
	check_path(r.home, r.verdict == CL_ADMIT);
	check_path(r.cwd, r.verdict == CL_ADMIT || r.verdict == CL_JOIN);
	check_path(r.out, r.verdict == CL_ADMIT);
	check_path(r.err, r.verdict == CL_ADMIT);
	require(r.nenv == 0 || r.verdict == CL_ADMIT, "variables with admit only");
	check_names(&r);
	require(r.nmessages > 0 || r.verdict != CL_REFUSE, "a refusal says why");
	for (size_t i = 0; i < r.nmessages; i++)
		require(printable_line(r.messages[i]), "a message is one line");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* a copy of the exact size: the sanitizer sees every byte too far */
	char *datagram = malloc(size ? size : 1);

	require(datagram != NULL, "memory");
	if (size)
		memcpy(datagram, data, size);
	decode(datagram, size, CL_ASK_LAUNCH);
	decode(datagram, size, CL_ASK_END);
	free(datagram);
	return 0;
}
