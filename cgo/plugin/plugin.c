/*
 * Cloister's SPANK plugin: the callbacks that Slurm calls, and nothing else.
 *
 * On a node only the two task_init callbacks may ever fail: Slurm 24.11 drains
 * the node for a failure of any other, and then any user could take a node
 * away. What goes wrong earlier is remembered and said there.
 * local_user_init runs in srun, where a failure ends srun alone, as a failure
 * of init_post_opt does in sbatch, srun and salloc.
 */
#include "handoff.h"
#include "step.h"

struct cl_step cl_step = { .lifeline = -1 };

#pragma GCC visibility push(default)

SPANK_PLUGIN(cloister, 1)

int slurm_spank_init(spank_t sp, int ac, char *av[])
{
	cl_configure(sp, ac, av);
	return 0;
}

int slurm_spank_init_post_opt(spank_t sp, int ac, char *av[])
{
	(void)ac, (void)av;
	switch (spank_context()) {
	case S_CTX_REMOTE:
		cl_launch(sp);
		return 0;
	case S_CTX_LOCAL:
	case S_CTX_ALLOCATOR:
		return cl_step.secure ? cl_submits() : 0;
	default:
		return 0;
	}
}

int slurm_spank_local_user_init(spank_t sp, int ac, char *av[])
{
	(void)ac, (void)av;
	return cl_step_leaves(sp);
}

int slurm_spank_task_init_privileged(spank_t sp, int ac, char *av[])
{
	(void)ac, (void)av;
	return cl_task_privileged(sp);
}

int slurm_spank_task_init(spank_t sp, int ac, char *av[])
{
	(void)ac, (void)av;
	return cl_task_user(sp);
}

int slurm_spank_task_post_fork(spank_t sp, int ac, char *av[])
{
	(void)sp, (void)ac, (void)av;
	cl_tasks_forked();
	return 0;
}

int slurm_spank_task_exit(spank_t sp, int ac, char *av[])
{
	(void)ac, (void)av;
	cl_task_ended(sp);
	return 0;
}

int slurm_spank_exit(spank_t sp, int ac, char *av[])
{
	(void)sp, (void)ac, (void)av;
	cl_end();
	return 0;
}

#pragma GCC visibility pop
