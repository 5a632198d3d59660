#include "environment.h"
#include "claim.h"
#include "mutant.h"

#include <string.h>

/* What a value may look like. */
enum pattern {
	NUMBER,  /* 0-9 */
	NUMBERS, /* 0-9 , ( ) x - as in 2(x3),1 */
	NAME,    /* letters, digits, . _ + - and no - first */
	NODES,   /* a hostlist: n[01-04,7],login */
};

enum { VALUE_BYTES_MAX = 4096 }; /* longest: a hostlist of a big job */

static const struct {
	const char *name;
	enum pattern pattern;
} allowed[] = {
	/* what setup_env() and env_array_for_batch_job() of Slurm 24.11 set.
	 * Not here on purpose: SLURM_CONF (srun would load its plugstack),
	 * SLURM_RLIMIT_* and SLURM_UMASK (the login node's limits; Slurm sets
	 * them after task_init from what is left here, ulimits.c, so that the job
	 * keeps the node's own, which slurmstepd has),
	 * SLURM_TASK_PROLOG, SLURM_TASK_EPILOG, SLURM_SUBMIT_DIR, TMPDIR */
	{ "SLURM_ARRAY_JOB_ID", NUMBER },
	{ "SLURM_ARRAY_TASK_COUNT", NUMBER },
	{ "SLURM_ARRAY_TASK_ID", NUMBER },
	{ "SLURM_ARRAY_TASK_MAX", NUMBER },
	{ "SLURM_ARRAY_TASK_MIN", NUMBER },
	{ "SLURM_ARRAY_TASK_STEP", NUMBER },
	{ "SLURM_CLUSTER_NAME", NAME },
	{ "SLURM_CPUS_ON_NODE", NUMBER },
	{ "SLURM_CPUS_PER_TASK", NUMBER },
	{ "SLURM_GTIDS", NUMBERS },
	{ "SLURM_JOBID", NUMBER },
	{ "SLURM_JOB_ACCOUNT", NAME },
	{ "SLURM_JOB_CPUS_PER_NODE", NUMBERS },
	{ "SLURM_JOB_END_TIME", NUMBER },
	{ "SLURM_JOB_GID", NUMBER },
	{ "SLURM_JOB_GPUS", NUMBERS },
	{ "SLURM_JOB_GROUP", NAME },
	{ "SLURM_JOB_ID", NUMBER },
	{ "SLURM_JOB_NAME", NAME },
	{ "SLURM_JOB_NODELIST", NODES },
	{ "SLURM_JOB_NUM_NODES", NUMBER },
	{ "SLURM_JOB_PARTITION", NAME },
	{ "SLURM_JOB_QOS", NAME },
	{ "SLURM_JOB_START_TIME", NUMBER },
	{ "SLURM_JOB_UID", NUMBER },
	{ "SLURM_JOB_USER", NAME },
	{ "SLURM_LOCALID", NUMBER },
	{ "SLURM_MEM_PER_CPU", NUMBER },
	{ "SLURM_MEM_PER_NODE", NUMBER },
	{ "SLURM_NNODES", NUMBER },
	{ "SLURM_NODEID", NUMBER },
	{ "SLURM_NODELIST", NODES },
	{ "SLURM_NPROCS", NUMBER },
	{ "SLURM_NTASKS", NUMBER },
	{ "SLURM_NTASKS_PER_CORE", NUMBER },
	{ "SLURM_NTASKS_PER_NODE", NUMBER },
	{ "SLURM_NTASKS_PER_SOCKET", NUMBER },
	{ "SLURM_PROCID", NUMBER },
	{ "SLURM_RESTART_COUNT", NUMBER },
	{ "SLURM_STEPID", NUMBER },
	{ "SLURM_STEP_GPUS", NUMBERS },
	{ "SLURM_STEP_ID", NUMBER },
	{ "SLURM_STEP_NODELIST", NODES },
	{ "SLURM_STEP_NUM_NODES", NUMBER },
	{ "SLURM_STEP_NUM_TASKS", NUMBER },
	{ "SLURM_STEP_TASKS_PER_NODE", NUMBERS },
	{ "SLURM_TASKS_PER_NODE", NUMBERS },
	{ "SLURM_TASK_PID", NUMBER },
	{ "SLURM_THREADS_PER_CORE", NUMBER },
	{ "SLURMD_NODENAME", NAME },
	/* devices, as the gres plugins number them */
	{ "CUDA_VISIBLE_DEVICES", NUMBERS },
	{ "GPU_DEVICE_ORDINAL", NUMBERS },
	{ "ROCR_VISIBLE_DEVICES", NUMBERS },
};

static bool matches(const char *value, enum pattern pattern)
{
	static const char letters[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
	static const char digits[] = "0123456789";
	static const char *more[] = { [NUMBER] = "", [NUMBERS] = ",()x-",
				      [NAME] = "._+-", [NODES] = "._-,[]" };
	bool with_letters = pattern == NAME || pattern == NODES;
	size_t i;

	for (i = 0; value[i]; i++)
		if (!strchr(digits, value[i]) && !strchr(more[pattern], value[i]) &&
		    !(with_letters && strchr(letters, value[i])))
			return false;
	return i > 0 && value[0] != '-' &&
	       i <= (pattern == NUMBER ? 20 : (size_t)VALUE_BYTES_MAX);
}

bool cl_env_allowed(const char *variable)
{
	const char *equals = strchr(variable, '=');
	size_t n;

	if (!equals)
		return false;
	if (cl_mutant_removed("node-limits") &&
	    strncmp(variable, "SLURM_RLIMIT_", strlen("SLURM_RLIMIT_")) == 0)
		return true;
	n = (size_t)(equals - variable);
	for (size_t i = 0; i < sizeof(allowed) / sizeof(*allowed); i++)
		if (strlen(allowed[i].name) == n &&
		    memcmp(allowed[i].name, variable, n) == 0)
			return matches(equals + 1, allowed[i].pattern);
	return false;
}

static bool already(char **env, size_t n, const char *variable)
{
	size_t name = (size_t)(strchr(variable, '=') - variable) + 1;

	for (size_t i = 0; i < n; i++)
		if (strncmp(env[i], variable, name) == 0)
			return true;
	return false;
}

static bool proven(const char *variable)
{
	return !cl_env_is_slurms(variable) && strchr(variable, '=');
}

static size_t filter(char **env, bool is_proven)
{
	size_t stay = 0;

	for (size_t i = 0; env[i]; i++) {
		char *variable = env[i];

		env[i] = NULL;
		if ((cl_env_allowed(variable) ||
		     (is_proven && proven(variable))) &&
		    !already(env, stay, variable))
			env[stay++] = variable;
	}
	return stay;
}

size_t cl_env_filter(char **env) { return filter(env, false); }

size_t cl_env_filter_proven(char **env) { return filter(env, true); }
