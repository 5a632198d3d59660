/*
 * libFuzzer target: the filter of the variables that came with a step. The
 * input is the environment, each variable ended by a NUL.
 */
#include "environment.h"
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

enum { VARIABLES_MAX = 64 };

/* What gres plugins of Slurm say of GPUs (gres_common.c, gres_gpu.c). */
static bool accelerator(const char *variable)
{
	return strstr(variable, "_VISIBLE_DEVICES=") ||
	       strncmp(variable, "GPU_DEVICE_ORDINAL=", 19) == 0 ||
	       strncmp(variable, "ZE_AFFINITY_MASK=", 17) == 0;
}

static void check_stays(char **env, size_t stay)
{
	for (size_t i = 0; i < stay; i++) {
		size_t name = strcspn(env[i], "=") + 1;

		require(strncmp(env[i], "SLURM", 5) == 0 || accelerator(env[i]),
			"Slurm's own facts only");
		require(!strpbrk(env[i], "$`;\n\t /\\'\"&|<>*?"),
			"nothing that a shell or a loader would act upon");
		require(cl_env_allowed(env[i]), "what stays is allowed");
		for (size_t k = 0; k < i; k++)
			require(strncmp(env[i], env[k], name) != 0,
				"a name comes once");
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *env[VARIABLES_MAX + 1] = { NULL };
	char *copy = malloc(size + 1);
	size_t n = 0, stay;

	require(copy != NULL, "memory");
	if (size)
		memcpy(copy, data, size);
	copy[size] = '\0';
	for (size_t at = 0; n < VARIABLES_MAX && at < size;
	     at += strlen(copy + at) + 1)
		env[n++] = copy + at;
	stay = cl_env_filter(env);
	for (size_t i = 0; i <= VARIABLES_MAX; i++)
		require((env[i] != NULL) == (i < stay), "no gap, nothing behind");
	check_stays(env, stay);
	free(copy);
	return 0;
}
