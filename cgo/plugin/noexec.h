/*
 * Keep slurmstepd's own process from running anything for the user.
 *
 * slurmstepd runs --task-epilog as the user, also of a step whose tasks were
 * all refused. Two walls stand against that, each of them enough:
 * a mount namespace in which no file can be executed, and a system call filter
 * without execve. The first can be made before the tasks are forked, because
 * they leave it for the job view; the second only after that, or when there
 * will be no task.
 */
#ifndef CLOISTER_NOEXEC_H
#define CLOISTER_NOEXEC_H

/*
 * Moves the calling thread, and so what it forks, into a private mount
 * namespace that is noexec all over and in which no disk can be opened. Mounts
 * made outside later do not appear in it. Returns 0 or -1 with errno.
 */
int cl_noexec_namespace(void);

/*
 * Takes execve and execveat from all threads of this process and from what
 * they fork from now on (EACCES). Returns 0 or -1 with errno.
 */
int cl_forbid_exec(void);

#endif
