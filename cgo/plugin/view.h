/*
 * Move one task into the job view and take its privileges for good.
 */
#ifndef CLOISTER_VIEW_H
#define CLOISTER_VIEW_H

#include "client.h"

/*
 * As root, in the forked task: joins the two namespaces, then takes from the
 * task all that a later exec could give back to it: no_new_privs, an empty
 * bounding set, no core dumps, a session keyring of its own. Both descriptors
 * are closed. Returns 0, or -1 and a reason.
 */
int cl_enter_view(int mount_ns, int ipc_ns, char *why);

/*
 * As the user, in the job view: opens the two output files, then changes to
 * the working directory; `batch` also gets an empty standard input. Nothing is
 * changed unless all files open. Returns 0, or -1 and a reason.
 */
int cl_take_stdio(const char *out, const char *err, const char *cwd,
		  int batch, char *why);

#endif
