#define _GNU_SOURCE
#include "mutant.h"
#include "view.h"
#include "mutant.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int fail(char *why, const char *what)
{
	snprintf(why, CL_WHY_BYTES, "%.200s: %s", what, strerror(errno));
	return -1;
}

/* An exec after become_user could only gain what these sets still hold. */
static int drop_capability_sets(void)
{
	struct __user_cap_header_struct head = {
		.version = _LINUX_CAPABILITY_VERSION_3
	};
	struct __user_cap_data_struct data[2];

	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return -1;
	if (syscall(SYS_capget, &head, data) < 0)
		return -1;
	data[0].inheritable = data[1].inheritable = 0;
	if (syscall(SYS_capset, &head, data) < 0)
		return -1;
	/* the kernel says EINVAL for the first number that it does not have */
	for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
			return -1;
	return 0;
}

int cl_enter_view(int mount_ns, int ipc_ns, char *why)
{
	struct rlimit no_core = { 0, 0 };
	/* asked here: the mutants file is not in the view */
	bool allow_cores = cl_mutant_removed("core-limit");
	bool allow_privileges = cl_mutant_removed("no-new-privs");
	int rc = 0;

	if (setns(mount_ns, CLONE_NEWNS) < 0)
		rc = fail(why, "joining the job's mount namespace");
	else if (setns(ipc_ns, CLONE_NEWIPC) < 0)
		rc = fail(why, "joining the job's IPC namespace");
	else if (chdir("/") < 0)
		rc = fail(why, "changing to the job view's root");
	else if (!allow_cores && setrlimit(RLIMIT_CORE, &no_core) < 0)
		rc = fail(why, "forbidding core dumps");
	else if (!cl_mutant_removed("session-keyring") &&
		 syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0 &&
		 errno != ENOSYS)
		rc = fail(why, "making a session keyring");
	else if (!allow_privileges && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		rc = fail(why, "setting no_new_privs");
	else if (!allow_privileges && drop_capability_sets() < 0)
		rc = fail(why, "dropping capabilities");
	close(mount_ns);
	close(ipc_ns);
	return rc;
}

/* Opens one output file, which must be an ordinary file when it is there. */
static int open_output(const char *path, char *why)
{
	/* O_NONBLOCK: a FIFO that lies there must not block the step */
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW |
			    O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0600);
	struct stat st;

	if (fd < 0)
		return fail(why, path);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) ||
	    fcntl(fd, F_SETFL, O_APPEND) < 0) {
		snprintf(why, CL_WHY_BYTES, "%.200s: not an ordinary file", path);
		close(fd);
		return -1;
	}
	return fd;
}

int cl_take_stdio(const char *out, const char *err, const char *cwd,
		  int batch, char *why)
{
	int rc = -1, in = -1, o = -1, e = -1;

	if ((in = open("/dev/null", O_RDONLY | O_CLOEXEC)) < 0)
		fail(why, "/dev/null");
	else if ((o = open_output(out, why)) < 0)
		;
	else if ((e = open_output(err, why)) < 0)
		;
	else if (chdir(cwd) < 0)
		fail(why, cwd);
	else if ((batch && dup2(in, STDIN_FILENO) < 0) ||
		 dup2(o, STDOUT_FILENO) < 0 || dup2(e, STDERR_FILENO) < 0)
		fail(why, "replacing standard output");
	else
		rc = 0;
	/* above 2 always: slurmstepd has its own files on 0 to 2 */
	for (int i = 0, fds[] = { in, o, e }; i < 3; i++)
		if (fds[i] > STDERR_FILENO)
			close(fds[i]);
	return rc;
}
