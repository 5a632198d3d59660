/*
 * In sbatch, srun and salloc with --secure: has the sealed job checked before it
 * waits in the queue. The check is in Go, which must not be loaded where it is
 * not used, nor ever in slurmd or slurmstepd. Nothing depends on it: without the
 * library the submission goes on, and the node checks.
 */
#define _GNU_SOURCE
#include "submit.h"

#include "handoff.h"
#include "say.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* The Go runtime reserves 1.6 GB of addresses; with less than this it would end
 * the process. */
#define ADDRESSES (4ul << 30)

typedef int (*check_function)(int first, char *cause, char *next, size_t size);

static void unchecked(const char *why)
{
	slurm_spank_log("cloister: not checked before submission, the node will: %s",
			why);
}

static check_function load(char *why, size_t size)
{
	char path[PATH_MAX];
	struct rlimit as;
	Dl_info self;
	check_function check;
	const char *slash;
	void *library;

	if (getrlimit(RLIMIT_AS, &as) == 0 && as.rlim_cur < ADDRESSES) {
		snprintf(why, size, "ulimit -v leaves too little room");
		return NULL;
	}
	if (!dladdr((void *)load, &self) || !self.dli_fname ||
	    !(slash = strrchr(self.dli_fname, '/')) ||
	    (size_t)snprintf(path, sizeof(path), "%.*s/%s",
			     (int)(slash - self.dli_fname), self.dli_fname,
			     CL_SUBMIT_LIBRARY) >= sizeof(path)) {
		snprintf(why, size, "the plugin does not know where it is");
		return NULL;
	}
	library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	check = library ? (check_function)dlsym(library, CL_SUBMIT_FUNCTION) : NULL;
	if (!check)
		snprintf(why, size, "%s", dlerror());
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
		unchecked(cause);
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
		unchecked(cause);
		return 0;
	}
}
