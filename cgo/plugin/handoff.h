/*
 * What cloister-secure.so does for each callback; plugin.c is where Slurm calls
 * it from.
 */
#ifndef CLOISTER_HANDOFF_H
#define CLOISTER_HANDOFF_H

#include <slurm/spank.h>
#include <stdbool.h>

/* Change the symbol's number with the structure: both files must fit. */
#define CL_WORK_LIBRARY "cloister-secure.so"
#define CL_WORK_SYMBOL "cl_work_1"

struct cl_work {
	/* launch.c: in the slurmstepd parent, before any process of the step,
	 * with plugstack.conf's arguments */
	void (*launch)(spank_t sp, int ac, char **av, bool secure);

	/* task.c: in a forked task. -1 refuses it. */
	int (*task_privileged)(spank_t sp);
	int (*task_user)(spank_t sp);

	/* end.c: in the slurmstepd parent again */
	void (*tasks_forked)(void);
	void (*task_ended)(spank_t sp);
	void (*end)(void);

	/* submit.c: in sbatch, srun and salloc, with --secure. -1 ends them. */
	int (*submits)(void);

	/* local.c: in srun, in a job view. -1 ends it. */
	int (*step_leaves)(spank_t sp);
};

void cl_read_arguments(int ac, char **av);
void cl_launch(spank_t sp, int ac, char **av, bool secure);
int cl_task_privileged(spank_t sp);
int cl_task_user(spank_t sp);
void cl_tasks_forked(void);
void cl_task_ended(spank_t sp);
void cl_end(void);
int cl_submits(void);
int cl_step_leaves(spank_t sp);

#endif
