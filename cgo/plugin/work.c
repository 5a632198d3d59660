/* What plugin.c finds in cloister-secure.so. */
#include "handoff.h"
#include "step.h"

struct cl_step cl_step = { .lifeline = -1 };

extern const struct cl_work cl_work_1;

__attribute__((visibility("default")))
const struct cl_work cl_work_1 = {
	.launch = cl_launch,
	.task_privileged = cl_task_privileged,
	.task_user = cl_task_user,
	.tasks_forked = cl_tasks_forked,
	.task_ended = cl_task_ended,
	.end = cl_end,
	.submits = cl_submits,
	.step_leaves = cl_step_leaves,
};
