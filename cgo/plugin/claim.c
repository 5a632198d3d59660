#include "claim.h"

#include <stdlib.h>
#include <string.h>

bool cl_env_is_slurms(const char *variable)
{
	return strncmp(variable, "SLURM", 5) == 0;
}

static int by_bytes(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The variables that a proof covers, in order; the caller frees the array. */
static char **covered(char *const *env, size_t *n)
{
	size_t all = 0;
	char **list;

	while (env[all])
		all++;
	list = malloc((all + 1) * sizeof(*list));
	*n = 0;
	for (size_t i = 0; list && i < all; i++)
		if (!cl_env_is_slurms(env[i]))
			list[(*n)++] = env[i];
	if (list)
		qsort(list, *n, sizeof(*list), by_bytes);
	return list;
}

/* Room for all strings with their field names, and for the fixed fields. */
static size_t room(const struct cl_claim *c, char *const *env, size_t n)
{
	size_t sum = 512 + strlen(c->cwd);

	for (int i = 0; i < c->argc; i++)
		sum += strlen(c->argv[i]) + sizeof("arg=");
	for (size_t i = 0; i < n; i++)
		sum += strlen(env[i]) + sizeof("env=");
	return sum;
}

static void put_all(struct cl_writer *w, const struct cl_claim *c,
		    char *const *env, size_t n)
{
	cl_put(w, "cloister-step", "1");
	cl_put_number(w, "job", c->job);
	cl_put_number(w, "step", c->step);
	cl_put_number(w, "uid", c->uid);
	cl_put_number(w, "nnodes", c->nodes);
	cl_put_number(w, "ntasks", c->tasks);
	cl_put(w, "nonce", c->nonce);
	cl_put(w, "cwd", c->cwd);
	for (int i = 0; i < c->argc; i++)
		cl_put(w, "arg", c->argv[i]);
	for (size_t i = 0; i < n; i++)
		cl_put(w, "env", env[i]);
}

ssize_t cl_claim_write(const struct cl_claim *c, char **bytes)
{
	struct cl_writer w = { 0 };
	size_t n;
	char **env = covered(c->env, &n);

	*bytes = NULL;
	if (!env)
		return -1;
	w.cap = room(c, env, n);
	if (w.cap <= CL_CLAIM_MAX)
		w.buf = *bytes = malloc(w.cap);
	if (w.buf)
		put_all(&w, c, env, n);
	free(env);
	if (w.buf && !w.failed)
		return (ssize_t)w.len;
	free(*bytes);
	*bytes = NULL;
	return -1;
}

/* Copies n hexadecimal digits that `end` follows; what comes after it. */
static const char *digits(const char *text, char *to, size_t n, char end)
{
	if (!text || strspn(text, "0123456789abcdef") != n || text[n] != end)
		return NULL;
	memcpy(to, text, n);
	to[n] = '\0';
	return text + n + 1;
}

int cl_proof_read(const char *text, struct cl_proof *p)
{
	if (strlen(text) > CL_PROOF_BYTES_MAX || strncmp(text, "1:", 2) != 0)
		return -1;
	p->cwd = digits(digits(text + 2, p->nonce, 2 * CL_NONCE_BYTES, ':'),
			p->mac, 2 * CL_MAC_BYTES, ':');
	return p->cwd && p->cwd[0] == '/' ? 0 : -1;
}

void cl_hex(const unsigned char *bytes, size_t n, char *text)
{
	static const char digit[] = "0123456789abcdef";

	for (size_t i = 0; i < n; i++) {
		text[2 * i] = digit[bytes[i] >> 4];
		text[2 * i + 1] = digit[bytes[i] & 15];
	}
	text[2 * n] = '\0';
}
