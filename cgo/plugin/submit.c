/*
 * In sbatch, srun and salloc with --secure: has the sealed job checked before it
 * waits in the queue. The check is in Go, which must not be loaded where it is
 * not used, nor ever in slurmd or slurmstepd. Nothing depends on it: without the
 * library the submission goes on, and the node checks.
 */
#include "submit.h"

#include "beside.h"
#include "handoff.h"
#include "say.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

/* The Go runtime reserves 1.6 GB of addresses; with less than this it would end
 * the process. */
#define ADDRESSES (4ul << 30)

typedef int (*check_function)(int first, char *cause, char *next, size_t size);

static check_function load(char *why, size_t size)
{
	struct rlimit as;
	check_function check;
	void *library;

	if (getrlimit(RLIMIT_AS, &as) == 0 && as.rlim_cur < ADDRESSES) {
		snprintf(why, size, "ulimit -v leaves too little room");
		return NULL;
	}
	library = cl_open_beside(CL_SUBMIT_LIBRARY, why, size);
	if (!library)
		return NULL;
	check = (check_function)dlsym(library, CL_SUBMIT_FUNCTION);
	if (!check)
		cl_beside_failed(why, size);
	return check;
}

int cl_submits(void)
{
	char cause[CL_SUBMIT_BYTES] = "", next[CL_SUBMIT_BYTES] = "",
	     line[CL_SUBMIT_BYTES + 64];
	check_function check;

	/* srun inside of a job starts a step, which is the node's to judge */
	if (spank_context() == S_CTX_LOCAL && getenv("SLURM_JOB_ID"))
		return 0;
	check = load(cause, sizeof(cause));
	if (!check) {
		cl_say_unchecked(cause);
		return 0;
	}
	/* optind is getopt's, which sbatch has just gone through its command
	 * line with: the first argument that is no option */
	switch (check(optind, cause, next, sizeof(cause))) {
	case CL_SUBMISSION_GOOD:
		return 0;
	case CL_SUBMISSION_REFUSED:
		snprintf(line, sizeof(line), "refused in phase submit: %s", cause);
		cl_say(line, next);
		return -1;
	default:
		cl_say_unchecked(cause);
		return 0;
	}
}
