/*
 * The hand-off's datagrams: encode a request, decode a reply.
 *
 * A datagram is a sequence of fields `name=value` NUL, the first of which is
 * `cloister=1`. This file knows nothing of Slurm and makes no system call, so
 * that it can be tested and fuzzed alone. It refuses whatever it does not
 * expect: unknown, missing or repeated fields, control characters, paths that
 * are not absolute. noded/handoff/datagram.go is the other end.
 */
#ifndef CLOISTER_MESSAGE_H
#define CLOISTER_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	CL_DATAGRAM_MAX = 64 * 1024, /* bytes, either way */
	CL_ENV_MAX = 512,            /* env fields in one reply */
	CL_MESSAGES_MAX = 64,        /* message fields in one reply */
	CL_MESSAGE_BYTES_MAX = 1024, /* bytes of one message */
	CL_NAME_BYTES_MAX = 255,     /* of a job's name: a file's name has no more */
	CL_PATH_BYTES_MAX = 4095,    /* PATH_MAX without its NUL */
};

/* A datagram in the making. `failed` stays set once a field did not fit. */
struct cl_writer {
	char *buf;
	size_t cap, len;
	bool failed;
};

/* Starts a datagram in buf, with the field that names the format. */
void cl_begin(struct cl_writer *w, char *buf, size_t cap);
void cl_put(struct cl_writer *w, const char *name, const char *value);
void cl_put_number(struct cl_writer *w, const char *name, uint64_t value);

enum cl_verdict {
	CL_REFUSE,   /* to ask=launch: nothing of this step may run */
	CL_PASS,     /* to ask=launch: an ordinary step, leave it alone */
	CL_ADMIT,    /* to ask=launch: run it in the job view */
	CL_JOIN,     /* to ask=launch: a proven step, run it in the job view */
	CL_RELEASED, /* to ask=end: the session is gone */
	CL_FENCED,   /* to ask=end: it could not be cleaned, the node is locked */
};

enum cl_ask { CL_ASK_LAUNCH, CL_ASK_END };

/* A decoded reply. Its strings lie in the datagram that it was decoded from. */
struct cl_reply {
	enum cl_verdict verdict;
	const char *env[CL_ENV_MAX]; /* NAME=VALUE */
	size_t nenv;
	const char *messages[CL_MESSAGES_MAX]; /* printable, one line each */
	size_t nmessages;
	/* absolute paths in the job view; a step that joins has cwd alone */
	const char *home, *cwd, *out, *err;
};

/*
 * Decodes the reply to `ask` from buf[0..len). Returns 0, or -1 and a reason
 * in *why (a constant string).
 */
int cl_parse_reply(const char *buf, size_t len, enum cl_ask ask,
		   struct cl_reply *reply, const char **why);

#endif
