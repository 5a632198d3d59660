/*
 * In an srun of a job view, when the step's number is known and before it is launched: bring
 * along the proof that the step was started inside the session.
 */
#include "handoff.h"
#include "proof.h"

#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

extern char **environ;

static bool describe(spank_t sp, struct cl_claim *claim)
{
	claim->env = environ;
	/* S_JOB_UID is srun's option --uid, mostly nobody */
	claim->uid = getuid();
	return spank_get_item(sp, S_JOB_ID, &claim->job) == ESPANK_SUCCESS &&
	       spank_get_item(sp, S_JOB_STEPID, &claim->step) == ESPANK_SUCCESS &&
	       spank_get_item(sp, S_JOB_NNODES, &claim->nodes) == ESPANK_SUCCESS &&
	       spank_get_item(sp, S_JOB_TOTAL_TASK_COUNT, &claim->tasks) ==
		       ESPANK_SUCCESS &&
	       spank_get_item(sp, S_JOB_ARGV, &claim->argc, &claim->argv) ==
		       ESPANK_SUCCESS;
}

int cl_step_leaves(spank_t sp)
{
	char proof[CL_PROOF_BYTES_MAX + 1], cwd[PATH_MAX], why[256] = "";
	struct cl_claim claim = { 0 };
	int rc;

	claim.cwd = getcwd(cwd, sizeof(cwd));
	if (!claim.cwd || !describe(sp, &claim)) {
		slurm_error("cloister: srun does not describe the step");
		return -1;
	}
	unsetenv(CL_PROOF_VARIABLE); /* of the step that this srun runs in */
	rc = cl_prove(CL_STEP_KEY, &claim, proof, why, sizeof(why));
	if (rc == 0 && setenv(CL_PROOF_VARIABLE, proof, 1) == 0)
		return 0;
	slurm_error("cloister: this step cannot be proven to be the session's: %s",
		    why);
	return -1;
}
