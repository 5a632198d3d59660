#include "say.h"

#include <slurm/spank.h>

void cl_say(const char *cause, const char *next)
{
	slurm_spank_log("cloister: %s", cause);
	slurm_spank_log("cloister: next: %s", next);
}

void cl_say_failed(const char *phase, const char *cause, const char *next)
{
	slurm_spank_log("cloister: failed in phase %s: %s", phase, cause);
	slurm_spank_log("cloister: next: %s", next);
}
