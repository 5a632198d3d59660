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

void cl_say_unchecked(const char *why)
{
	slurm_spank_log("cloister: not checked before submission, the node will: %s",
			why);
}
