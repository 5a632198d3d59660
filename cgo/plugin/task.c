/*
 * In the forked task: say why it is refused, or put it into the job view.
 */
#include "environment.h"
#include "handoff.h"
#include "say.h"
#include "step.h"
#include "view.h"

#include <string.h>
#include <unistd.h>

static bool first_task(spank_t sp)
{
	int id = 0;

	return spank_get_item(sp, S_TASK_ID, &id) != ESPANK_SUCCESS || id == 0;
}

/* One line each in the job's output, once for all tasks of this node. */
static void tell(spank_t sp, const struct cl_answer *answer)
{
	if (!first_task(sp))
		return;
	for (size_t i = 0; answer && i < answer->reply.nmessages; i++)
		slurm_spank_log("cloister: %s", answer->reply.messages[i]);
	if (!answer)
		cl_say(cl_step.why, cl_step.next);
}

/*
 * slurmstepd has changed to the directory that Slurm names, in its copy of the
 * view. The proof is of srun's own.
 */
static bool in_proven_directory(void)
{
	char cwd[CL_PATH_BYTES_MAX + 1];

	return getcwd(cwd, sizeof(cwd)) &&
	       strcmp(cwd, cl_step.answer->reply.cwd) == 0;
}

int cl_task_privileged(spank_t sp)
{
	char why[CL_WHY_BYTES];

	if (cl_step.state == CL_UNTOUCHED)
		return 0;
	if (cl_step.lifeline >= 0)
		close(cl_step.lifeline);
	cl_step.lifeline = -1;
	tell(sp, cl_step.answer);
	if (cl_step.state == CL_REFUSED)
		return -1;
	if (cl_step.joined && !cl_step.any_directory && !in_proven_directory()) {
		cl_say("refused in phase view: the step's working directory is "
		       "not srun's",
		       "leave out srun's --chdir and change the directory in "
		       "the script");
		return -1;
	}
	if (cl_enter_view(cl_step.answer->mount_ns, cl_step.answer->ipc_ns,
			  why) == 0)
		return 0;
	cl_say_failed("view", why, "tell the administrator");
	return -1;
}

static bool set(spank_t sp, const char *name, const char *value)
{
	char now[2];
	spank_err_t rc;

	/* spank_setenv says success also for a value that was too long, so
	 * look: a value longer than the room is there all the same */
	if (spank_setenv(sp, name, value, 1) != ESPANK_SUCCESS)
		return false;
	rc = spank_getenv(sp, name, now, sizeof(now));
	return rc == ESPANK_SUCCESS || rc == ESPANK_NOSPACE;
}

static bool set_variable(spank_t sp, const char *variable)
{
	size_t n = strcspn(variable, "=");
	char name[n + 1];

	memcpy(name, variable, n);
	name[n] = '\0';
	return set(sp, name, variable + n + 1);
}

/* Both files of a proven step are srun's connections or its --output, opened
 * by slurmstepd in its copy of the view. */
static int join(spank_t sp, const struct cl_reply *reply)
{
	char **env = NULL;

	if (spank_get_item(sp, S_JOB_ENV, &env) != ESPANK_SUCCESS || !env ||
	    cl_env_filter_proven(env) == 0) {
		cl_say_failed("environment", "it could not be made",
			      "tell the administrator");
		return -1;
	}
	if (chdir(reply->cwd) == 0)
		return 0;
	cl_say_failed("view", "the working directory cannot be entered",
		      "change to one that the job can enter before srun");
	return -1;
}

static bool set_environment(spank_t sp, const struct cl_reply *reply)
{
	char **env = NULL;

	if (cl_step.keep_environment)
		return true;
	if (spank_get_item(sp, S_JOB_ENV, &env) != ESPANK_SUCCESS || !env)
		return false;
	/* not one left: Slurm can't add to an empty array */
	if (cl_env_filter(env) == 0)
		return false;
	for (size_t i = 0; i < reply->nenv; i++)
		if (!set_variable(sp, reply->env[i]))
			return false;
	return set(sp, "HOME", reply->home);
}

int cl_task_user(spank_t sp)
{
	const struct cl_reply *reply;
	char why[CL_WHY_BYTES];

	if (cl_step.state == CL_UNTOUCHED)
		return 0;
	if (cl_step.state != CL_ADMITTED || !cl_step.answer)
		return -1;
	reply = &cl_step.answer->reply;
	if (cl_step.joined)
		return join(sp, reply);
	if (!set_environment(sp, reply)) {
		cl_say_failed("environment", "it could not be made",
			      "tell the administrator");
		return -1;
	}
	if (cl_step.keep_output)
		return 0;
	if (cl_take_stdio(reply->out, reply->err, reply->cwd,
			  cl_step.batch && !cl_step.keep_input, why) < 0) {
		cl_say_failed("output", why,
			      "check the output line of the sealed job and the "
			      "room in its volume");
		return -1;
	}
	return 0;
}
