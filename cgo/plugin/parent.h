/*
 * Where the slurmstepd of a step that joins a session stands. It opens
 * --output, --error and --input itself, and changes to the working directory:
 * all these must mean what they mean in the job view. Its later threads stand
 * there too, so noded ends it with the session, before it closes the volumes.
 */
#ifndef CLOISTER_PARENT_H
#define CLOISTER_PARENT_H

/*
 * Moves the calling thread, which shares its directories with no other
 * (cl_noexec_namespace), to a copy of the job view that is noexec all over and
 * that has the host's control groups, which slurmstepd makes and fills.
 * Returns 0, or -1 with errno.
 */
int cl_sit_in_view(int mount_ns);

#endif
