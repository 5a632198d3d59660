#include "handoff.h"
#include "step.h"

#include <stdio.h>
#include <string.h>

static int secure_given(int val, const char *arg, int remote)
{
	(void)val, (void)arg, (void)remote;
	cl_step.secure = true;
	return 0;
}

static struct spank_option secure = {
	.name = "secure",
	.usage = "run a sealed job (made with `cloister seal`) on a node that "
		 "is locked for it",
	.cb = secure_given,
};

static void read_arguments(int ac, char **av)
{
	for (int i = 0; i < ac; i++) {
		if (strcmp(av[i], "node=dedicated") == 0 ||
		    strcmp(av[i], "node=on-demand") == 0) {
			if (cl_step.node == CL_NODE_ORDINARY) {
				cl_step.node = CL_NODE_SECURE;
				continue;
			}
		}
		cl_step.node = CL_NODE_UNKNOWN;
		snprintf(cl_step.why, sizeof(cl_step.why),
			 "refused in phase set-up: plugstack.conf of this node "
			 "has an argument that is unknown or too many: %.100s",
			 av[i]);
		cl_step.next = "tell the administrator";
		return;
	}
}

void cl_configure(spank_t sp, int ac, char **av)
{
	spank_context_t where = spank_context();

	if (where == S_CTX_REMOTE)
		read_arguments(ac, av);
	/* prolog and epilog scripts have no use for the option */
	if (where == S_CTX_REMOTE || where == S_CTX_LOCAL ||
	    where == S_CTX_ALLOCATOR)
		spank_option_register(sp, &secure);
}
