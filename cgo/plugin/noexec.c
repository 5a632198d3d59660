#define _GNU_SOURCE
#include "noexec.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define NATIVE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define NATIVE AUDIT_ARCH_AARCH64
#else
#error "the system call filter does not know this machine"
#endif

/* Puts /dev/null over one block device. One that just went away is no loss. */
static int cover_disk(const char *path, const struct stat *st, int type,
		      struct FTW *at)
{
	(void)type;
	(void)at;
	if (!S_ISBLK(st->st_mode) ||
	    mount("/dev/null", path, NULL, MS_BIND, NULL) == 0 || errno == ENOENT)
		return 0;
	return -1;
}

int cl_noexec_namespace(void)
{
	struct mount_attr noexec = { .attr_set = MOUNT_ATTR_NOEXEC };

	/* CLONE_FS: slurmstepd's other threads keep their root and directory */
	if (unshare(CLONE_FS | CLONE_NEWNS) < 0)
		return -1;
	/* private, not slave: a mount that came in later would be without
	 * noexec (an automounter can be made to mount by anyone) */
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return -1;
	/* slurmstepd opens the files of --output by name, as root for a job of
	 * root's, also when the step is refused */
	if (nftw("/dev", cover_disk, 8, FTW_PHYS | FTW_MOUNT) != 0)
		return -1;
	/* all mounts or none (mount_setattr(2)) */
	return mount_setattr(AT_FDCWD, "/", AT_RECURSIVE, &noexec,
			     sizeof(noexec));
}

int cl_forbid_exec(void)
{
	/* numbers from bit 30 on are x32's, another table of the same kernel */
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			 offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, NATIVE, 0, 4),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			 offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_execve, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_execveat, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EACCES),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(*code), code };
	long rc = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
			  SECCOMP_FILTER_FLAG_TSYNC, &program);

	if (rc > 0)
		errno = EBUSY; /* a thread that has a filter of its own */
	return rc == 0 ? 0 : -1;
}
