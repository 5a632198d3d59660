/*
 * In the slurmstepd parent, from the fork of the tasks to its end.
 */
#include "handoff.h"
#include "noexec.h"
#include "say.h"
#include "step.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void leave_view(void)
{
	int *held[] = { &cl_step.answer->mount_ns, &cl_step.answer->ipc_ns };

	for (size_t i = 0; i < 2; i++) {
		if (*held[i] >= 0)
			close(*held[i]);
		*held[i] = -1;
	}
}

void cl_tasks_forked(void)
{
	/* the second wall, for an admitted step, as soon as it can stand; the
	 * first stands already, so a failure is only told */
	static bool done;

	if (done || cl_step.state != CL_ADMITTED || cl_step.allow_exec)
		return;
	done = true;
	/* every task has its own copies by now; a view that nobody holds can
	 * be taken down */
	leave_view();
	if (cl_forbid_exec() < 0)
		slurm_error("cloister: no system call filter: %s",
			    strerror(errno));
}

void cl_task_ended(spank_t sp)
{
	int id = -1, status = 0;

	if (cl_step.state != CL_ADMITTED)
		return;
	if (spank_get_item(sp, S_TASK_ID, &id) == ESPANK_SUCCESS && id == 0 &&
	    spank_get_item(sp, S_TASK_EXIT_STATUS, &status) == ESPANK_SUCCESS)
		cl_step.status = status;
}

static void tell_end(const struct cl_reply *reply)
{
	for (size_t i = 0; i < reply->nmessages; i++)
		slurm_spank_log("cloister: %s", reply->messages[i]);
	if (reply->verdict == CL_FENCED && reply->nmessages == 0)
		cl_say("this node could not be cleaned and stays locked",
		       "tell the administrator");
}

void cl_end(void)
{
	struct timespec deadline = cl_deadline(CL_END_SECONDS);
	char buf[256], why[CL_WHY_BYTES];
	struct cl_writer w;

	if (cl_step.state != CL_ADMITTED || cl_step.lifeline < 0 ||
	    getpid() != cl_step.parent)
		return;
	leave_view();
	cl_begin(&w, buf, sizeof(buf));
	cl_put(&w, "ask", "end");
	cl_put_number(&w, "status", (uint32_t)cl_step.status);
	if (cl_ask(cl_step.lifeline, &w, -1, CL_ASK_END, &deadline,
		   cl_step.answer, why) == 0)
		tell_end(&cl_step.answer->reply);
	else
		cl_say_failed("release", why,
			      "tell the administrator: the node stays locked "
			      "until it is clean");
	close(cl_step.lifeline);
	cl_step.lifeline = -1;
	free(cl_step.answer);
	cl_step.answer = NULL;
	cl_step.state = CL_UNTOUCHED;
}
