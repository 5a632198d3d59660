#define _GNU_SOURCE
#include "parent.h"

#include "noexec.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#define CGROUPS "/sys/fs/cgroup"

int cl_sit_in_view(int mount_ns)
{
	int groups, rc = -1, saved;

	groups = open_tree(AT_FDCWD, CGROUPS,
			   OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
	if (groups < 0)
		return -1;
	if (setns(mount_ns, CLONE_NEWNS) == 0 && cl_noexec_namespace() == 0 &&
	    move_mount(groups, "", AT_FDCWD, CGROUPS,
		       MOVE_MOUNT_F_EMPTY_PATH) == 0)
		rc = 0;
	saved = errno;
	close(groups);
	errno = saved;
	return rc;
}
