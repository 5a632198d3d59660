/*
 * Cloister's SPANK plugin: the callbacks that Slurm calls.
 *
 * Every sbatch, srun, salloc and slurmstepd of the cluster loads this file, most
 * of them to find out that Cloister has nothing to do there. So it holds no more
 * than that takes; the rest is cloister-secure.so, loaded from beside it for a
 * step on a secure node, a --secure option, or a step that a job view starts.
 *
 * On a node only the two task_init callbacks may ever fail: Slurm 24.11 drains
 * the node for a failure of any other, and then any user could take a node
 * away. What goes wrong earlier is remembered and said there.
 * local_user_init runs in srun, where a failure ends srun alone, as a failure
 * of init_post_opt does in sbatch, srun and salloc. The one exception is a node
 * of which half of the plugin is missing.
 */
#include "beside.h"
#include "handoff.h"
#include "proof.h"
#include "say.h"

#include <dlfcn.h>
#include <errno.h>
#include <unistd.h>

static bool secure; /* --secure was given */

/* NULL where there is nothing to do, and where it could not be loaded. */
static const struct cl_work *work;
static char missing[CL_BESIDE_BYTES];

static bool load(void)
{
	void *library = cl_open_beside(CL_WORK_LIBRARY, missing, sizeof(missing));

	if (library && !(work = dlsym(library, CL_WORK_SYMBOL)))
		cl_beside_failed(missing, sizeof(missing));
	return work;
}

static int secure_given(int val, const char *arg, int remote)
{
	(void)val, (void)arg, (void)remote;
	secure = true;
	return 0;
}

static struct spank_option option = {
	.name = "secure",
	.usage = "run a sealed job (made with `cloister seal`) on a node that "
		 "is locked for it",
	.cb = secure_given,
};

/*
 * On a secure node a step must not go on without the library: slurmstepd could
 * run its user's task epilog. No user can take the library away, so a drained
 * node is the right end. An ordinary node's tasks are refused, one by one.
 */
static int launch(spank_t sp, int ac, char **av)
{
	bool ordinary = ac == 0;

	if (ordinary && !secure)
		return 0;
	if (load()) {
		work->launch(sp, ac, av, secure);
		return 0;
	}
	slurm_error("cloister: %s", missing);
	return ordinary ? 0 : -1;
}

static int submits(void)
{
	if (!secure)
		return 0;
	if (load())
		return work->submits();
	cl_say_unchecked(missing);
	return 0;
}

/*
 * Whether this srun is in a job view. On a secure node outside of all views,
 * noded's directory is there and closed to users.
 */
static bool in_view(void)
{
	return access(CL_STEP_KEY, F_OK) == 0 ||
	       (errno != ENOENT && errno != EACCES);
}

static int refuse(void)
{
	cl_say(missing, "tell the administrator");
	return -1;
}

#pragma GCC visibility push(default)

SPANK_PLUGIN(cloister, 1)

int slurm_spank_init(spank_t sp, int ac, char *av[])
{
	(void)ac, (void)av;
	switch (spank_context()) {
	case S_CTX_REMOTE:
	case S_CTX_LOCAL:
	case S_CTX_ALLOCATOR:
		spank_option_register(sp, &option);
		break;
	default: /* prolog and epilog scripts have no use for the option */
		break;
	}
	return 0;
}

int slurm_spank_init_post_opt(spank_t sp, int ac, char *av[])
{
	switch (spank_context()) {
	case S_CTX_REMOTE:
		return launch(sp, ac, av);
	case S_CTX_LOCAL:
	case S_CTX_ALLOCATOR:
		return submits();
	default:
		return 0;
	}
}

int slurm_spank_local_user_init(spank_t sp, int ac, char *av[])
{
	(void)ac, (void)av;
	if (!in_view())
		return 0;
	return work || load() ? work->step_leaves(sp) : refuse();
}

int slurm_spank_task_init_privileged(spank_t sp, int ac, char *av[])
{
	(void)ac, (void)av;
	if (missing[0])
		return refuse();
	return work ? work->task_privileged(sp) : 0;
}

int slurm_spank_task_init(spank_t sp, int ac, char *av[])
{
	(void)ac, (void)av;
	if (missing[0])
		return -1;
	return work ? work->task_user(sp) : 0;
}

int slurm_spank_task_post_fork(spank_t sp, int ac, char *av[])
{
	(void)sp, (void)ac, (void)av;
	if (work)
		work->tasks_forked();
	return 0;
}

int slurm_spank_task_exit(spank_t sp, int ac, char *av[])
{
	(void)ac, (void)av;
	if (work)
		work->task_ended(sp);
	return 0;
}

int slurm_spank_exit(spank_t sp, int ac, char *av[])
{
	(void)sp, (void)ac, (void)av;
	if (work)
		work->end();
	return 0;
}

#pragma GCC visibility pop
