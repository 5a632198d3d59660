#include "message.h"

#include <stdio.h>
#include <string.h>

void cl_begin(struct cl_writer *w, char *buf, size_t cap)
{
	*w = (struct cl_writer){ .buf = buf, .cap = cap };
	cl_put(w, "cloister", "1");
}

void cl_put(struct cl_writer *w, const char *name, const char *value)
{
	size_t n = strlen(name), v = strlen(value);

	if (w->failed || n + 2 > w->cap - w->len || v > w->cap - w->len - n - 2) {
		w->failed = true;
		return;
	}
	memcpy(w->buf + w->len, name, n);
	w->buf[w->len + n] = '=';
	memcpy(w->buf + w->len + n + 1, value, v + 1);
	w->len += n + v + 2;
}

void cl_put_number(struct cl_writer *w, const char *name, uint64_t value)
{
	char text[24]; /* 2^64 has 20 digits */

	snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	cl_put(w, name, text);
}

/* No control characters: a message must not move the reader's cursor. */
static bool printable(const char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s < 0x20 || *s == 0x7f)
			return false;
	return true;
}

static bool good_path(const char *s)
{
	return s[0] == '/' && strlen(s) <= CL_PATH_BYTES_MAX && printable(s);
}

/* The length of NAME in NAME=VALUE, 0 when NAME is not a portable name. */
static size_t env_name(const char *s)
{
	size_t i;

	for (i = 0; s[i] && s[i] != '='; i++) {
		bool letter = (s[i] >= 'A' && s[i] <= 'Z') ||
			      (s[i] >= 'a' && s[i] <= 'z') || s[i] == '_';
		bool digit = s[i] >= '0' && s[i] <= '9';

		if (!letter && !(digit && i > 0))
			return 0;
	}
	return s[i] == '=' ? i : 0;
}

static const char *add_env(struct cl_reply *r, const char *value)
{
	size_t n = env_name(value);

	if (n == 0)
		return "an environment variable has no proper name";
	for (size_t i = 0; i < r->nenv; i++)
		if (strncmp(r->env[i], value, n + 1) == 0)
			return "an environment variable is given twice";
	if (r->nenv == CL_ENV_MAX)
		return "too many environment variables";
	r->env[r->nenv++] = value;
	return NULL;
}

static const char *add_message(struct cl_reply *r, const char *value)
{
	if (strlen(value) > CL_MESSAGE_BYTES_MAX || !printable(value))
		return "a message is not one printable line";
	if (r->nmessages == CL_MESSAGES_MAX)
		return "too many messages";
	r->messages[r->nmessages++] = value;
	return NULL;
}

static const char *set_path(const char **slot, const char *value)
{
	if (*slot)
		return "a path is given twice";
	if (!good_path(value))
		return "a path is not absolute and printable";
	*slot = value;
	return NULL;
}

static const struct {
	const char *word;
	enum cl_verdict verdict;
	enum cl_ask ask;
} verdicts[] = {
	{ "refuse", CL_REFUSE, CL_ASK_LAUNCH },
	{ "pass", CL_PASS, CL_ASK_LAUNCH },
	{ "admit", CL_ADMIT, CL_ASK_LAUNCH },
	{ "join", CL_JOIN, CL_ASK_LAUNCH },
	{ "released", CL_RELEASED, CL_ASK_END },
	{ "fenced", CL_FENCED, CL_ASK_END },
};

static const char *set_verdict(struct cl_reply *r, const char *value,
			       enum cl_ask ask)
{
	for (size_t i = 0; i < sizeof(verdicts) / sizeof(*verdicts); i++)
		if (verdicts[i].ask == ask &&
		    strcmp(verdicts[i].word, value) == 0) {
			r->verdict = verdicts[i].verdict;
			return NULL;
		}
	return "the verdict is not one that was asked for";
}

/* The value of field when it has this name, else NULL. */
static const char *named(const char *field, const char *name)
{
	size_t n = strlen(name);

	return strncmp(field, name, n) == 0 && field[n] == '=' ? field + n + 1
							       : NULL;
}

static const char *take(struct cl_reply *r, const char *field,
			enum cl_ask ask, bool *verdict)
{
	const char *v;

	if ((v = named(field, "verdict"))) {
		if (*verdict)
			return "the verdict is given twice";
		*verdict = true;
		return set_verdict(r, v, ask);
	}
	if ((v = named(field, "message")))
		return add_message(r, v);
	if ((v = named(field, "env")))
		return add_env(r, v);
	if ((v = named(field, "home")))
		return set_path(&r->home, v);
	if ((v = named(field, "cwd")))
		return set_path(&r->cwd, v);
	if ((v = named(field, "stdout")))
		return set_path(&r->out, v);
	if ((v = named(field, "stderr")))
		return set_path(&r->err, v);
	return "a field is unknown";
}

static bool paths_belong(const struct cl_reply *r)
{
	bool others = r->home || r->out || r->err || r->nenv;

	switch (r->verdict) {
	case CL_ADMIT:
		return r->home && r->cwd && r->out && r->err;
	case CL_JOIN:
		return r->cwd && !others;
	default:
		return !r->cwd && !others;
	}
}

int cl_parse_reply(const char *buf, size_t len, enum cl_ask ask,
		   struct cl_reply *r, const char **why)
{
	static const char first[] = "cloister=1";
	bool verdict = false;
	size_t at = sizeof(first);

	memset(r, 0, sizeof(*r));
	*why = "the reply is not one of format 1";
	if (len < sizeof(first) || len > CL_DATAGRAM_MAX ||
	    memcmp(buf, first, sizeof(first)) != 0 || buf[len - 1] != '\0')
		return -1;
	while (at < len) {
		if ((*why = take(r, buf + at, ask, &verdict)))
			return -1;
		at += strlen(buf + at) + 1;
	}
	*why = "the reply has no verdict";
	if (!verdict)
		return -1;
	*why = "the reply has fields that do not belong to its verdict";
	if (!paths_belong(r))
		return -1;
	*why = "the refusal gives no reason";
	if (r->verdict == CL_REFUSE && r->nmessages == 0)
		return -1;
	*why = "the reply has fields that do not belong to its verdict";
	if (r->verdict == CL_PASS && r->nmessages)
		return -1;
	*why = NULL;
	return 0;
}
