/* What each callback does; plugin.c is the table of them. */
#ifndef CLOISTER_HANDOFF_H
#define CLOISTER_HANDOFF_H

#include <slurm/spank.h>

/* options.c: reads plugstack.conf's arguments, registers --secure. */
void cl_configure(spank_t sp, int ac, char **av);

/* submit.c: in sbatch, srun and salloc, with --secure. -1 ends them. */
int cl_submits(void);

/* local.c: in srun. -1 ends it. */
int cl_step_leaves(spank_t sp);

/* launch.c: in the slurmstepd parent, before any process of the step. */
void cl_launch(spank_t sp);

/* task.c: in a forked task. -1 refuses it. */
int cl_task_privileged(spank_t sp);
int cl_task_user(spank_t sp);

/* end.c: in the slurmstepd parent again. */
void cl_tasks_forked(void);
void cl_task_ended(spank_t sp);
void cl_end(void);

#endif
