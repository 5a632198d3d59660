/*
 * Where the slurmstepd of a step that joins a session stands until its tasks
 * are forked. It opens --output, --error and --input itself, and changes to
 * the working directory: all these must mean what they mean in the job view.
 */
#ifndef CLOISTER_PARENT_H
#define CLOISTER_PARENT_H

/*
 * Moves the calling thread, which shares its directories with no other
 * (cl_noexec_namespace), to a copy of the job view that is noexec all over and
 * that has the host's control groups, which slurmstepd makes and fills.
 * *outside is a descriptor of the namespace that it left. Returns 0, or -1
 * with errno.
 */
int cl_sit_in_view(int mount_ns, int *outside);

/*
 * Goes back, so that slurmstepd holds no volume open while its tasks run.
 * Closes outside. Returns 0, or -1 with errno.
 */
int cl_leave_view(int outside);

#endif
