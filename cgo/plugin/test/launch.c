/*
 * Tests of what launch.c says of a step, to a Slurm and a noded that are made up
 * here.
 */
#include "check.h"
#include "evidence.h"
#include "handoff.h"
#include "noexec.h"
#include "parent.h"
#include "step.h"

#include <slurm/slurm.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* SEALED bytes of arguments is what a job has at most (sealed.MaxTogether). */
enum { ARGUMENTS = 3000, LONG = 60, SEALED = 40 * 1024 };

struct cl_step cl_step;

/* What Slurm says of the step. Of a batch step it knows no nodes. */
static uint32_t step, nodes;
static char **arguments;
static int narguments;

/* What noded got: "name=value" fields, of which `args` are arguments. */
static bool whole;
static int asked, args, scripts;

spank_err_t spank_get_item(spank_t sp, spank_item_t item, ...)
{
	va_list ap;

	(void)sp;
	va_start(ap, item);
	if (item == S_JOB_ARGV) {
		*va_arg(ap, int *) = narguments;
		*va_arg(ap, char ***) = arguments;
	} else if (item == S_JOB_SUPPLEMENTARY_GIDS) {
		*va_arg(ap, gid_t **) = NULL;
		*va_arg(ap, int *) = 0;
	} else {
		*va_arg(ap, uint32_t *) = item == S_JOB_STEPID ? step :
					  item == S_JOB_NNODES ? nodes : 1;
	}
	va_end(ap);
	return ESPANK_SUCCESS;
}

spank_err_t spank_getenv(spank_t sp, const char *name, char *buf, int len)
{
	(void)sp;
	if (strcmp(name, "SLURM_JOB_NUM_NODES") != 0)
		return ESPANK_ENV_NOEXIST;
	snprintf(buf, (size_t)len, "1");
	return ESPANK_SUCCESS;
}

void slurm_error(const char *format, ...)
{
	(void)format;
}

void cl_read_arguments(int ac, char **av)
{
	(void)ac, (void)av;
	cl_step.node = CL_NODE_SECURE;
}

bool cl_put_evidence(struct cl_writer *w, spank_t sp, int *file)
{
	(void)w, (void)sp, (void)file;
	return true;
}

struct timespec cl_deadline(int seconds)
{
	return (struct timespec){ .tv_sec = seconds };
}

int cl_connect(const char *path, const struct timespec *deadline, char *why)
{
	(void)path, (void)deadline, (void)why;
	return 1000; /* none of this process */
}

int cl_ask(int sock, const struct cl_writer *request, int file,
	   enum cl_ask ask, const struct timespec *deadline,
	   struct cl_answer *answer, char *why)
{
	(void)sock, (void)ask, (void)deadline, (void)why;
	asked++;
	whole = !request->failed;
	scripts = file >= 0;
	args = 0;
	for (size_t at = 0; at < request->len; at += strlen(request->buf + at) + 1)
		args += strncmp(request->buf + at, "arg=", 4) == 0;
	answer->reply.verdict = CL_PASS;
	return 0;
}

int cl_noexec_namespace(void) { return 0; }
int cl_forbid_exec(void) { return 0; }

int cl_sit_in_view(int mount_ns)
{
	(void)mount_ns;
	return 0;
}

static void launch(uint32_t id, int n, bool secure)
{
	step = id;
	nodes = id != SLURM_BATCH_SCRIPT;
	narguments = n;
	asked = 0;
	cl_step = (struct cl_step){ .lifeline = -1 };
	cl_launch(NULL, 0, NULL, secure);
	CHECK("noded is asked once", asked == 1);
}

int main(void)
{
	char text[LONG + 1] = "";

	memset(text, 'x', LONG);
	arguments = calloc(ARGUMENTS + 1, sizeof(*arguments));
	arguments[0] = (char[]){ "/dev/null" };
	for (int i = 1; i < ARGUMENTS; i++)
		arguments[i] = text;

	launch(0, ARGUMENTS, false);
	CHECK("a step of any length", whole && args == 0 && !scripts);
	launch(SLURM_BATCH_SCRIPT, ARGUMENTS, false);
	CHECK("a batch job of any length, with its script", whole && args == 1 && scripts);
	launch(SLURM_BATCH_SCRIPT, 5, true);
	CHECK("the arguments of a sealed one", whole && args == 5 && scripts);
	launch(SLURM_BATCH_SCRIPT, SEALED / LONG, true);
	CHECK("as many as can be sealed", whole && args == SEALED / LONG);
	launch(SLURM_BATCH_SCRIPT, ARGUMENTS, true);
	CHECK("not more than fit", !whole);

	/* tasks that are sent under the batch step's number */
	step = SLURM_BATCH_SCRIPT, nodes = 1, narguments = 1, asked = 0;
	cl_step = (struct cl_step){ .lifeline = -1 };
	cl_launch(NULL, 0, NULL, true);
	CHECK("tasks are no batch script", !asked && cl_step.state == CL_REFUSED);
	free(arguments);
	printf(failed ? "launch: FAILED\n" : "launch: ok\n");
	return failed;
}
