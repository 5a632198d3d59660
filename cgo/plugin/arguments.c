/* plugstack.conf's arguments on a node. */
#include "handoff.h"
#include "step.h"

#include <stdio.h>
#include <string.h>

void cl_read_arguments(int ac, char **av)
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
