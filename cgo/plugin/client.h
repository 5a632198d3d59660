/*
 * The plugin's end of noded's socket: connect, ask, get an answer.
 *
 * Every call has a deadline and refuses a peer that is not root. No Slurm
 * here, so that the Go tests of noded/handoff can run this very code.
 */
#ifndef CLOISTER_CLIENT_H
#define CLOISTER_CLIENT_H

#include "message.h"

#include <time.h>

#define CL_SOCKET "/run/cloister/noded.sock"

enum {
	CL_LAUNCH_SECONDS = 120, /* for a verdict; slurmstepd tolerates it */
	/* for the release of a session, which stores what the job wrote:
	 * longer than noded's storeDeadline; a closing that stands still
	 * noded gives up by itself */
	CL_END_SECONDS = 7 * 3600,
	CL_WHY_BYTES = 256,      /* room for a reason */
	CL_HUNG_UP = -2,         /* what cl_ask returns for a lost noded */
};

/* One answer: the datagram, what it says, and the descriptors with it. */
struct cl_answer {
	char datagram[CL_DATAGRAM_MAX];
	struct cl_reply reply;
	int mount_ns, ipc_ns; /* -1 unless the verdict is admit or join */
};

/* The time that lies `seconds` from now on the monotonic clock. */
struct timespec cl_deadline(int seconds);

/*
 * Connects to the socket at path, which must belong to root, and checks that
 * root listens there. Returns a close-on-exec descriptor, or -1 and a reason.
 */
int cl_connect(const char *path, const struct timespec *deadline, char *why);

/*
 * Sends the request, with the descriptor `file` unless that is -1, and reads
 * the answer. Returns 0, or -1 and a reason with no descriptor left open;
 * CL_HUNG_UP instead of -1 when noded went away before it answered.
 */
int cl_ask(int sock, const struct cl_writer *request, int file,
	   enum cl_ask ask, const struct timespec *deadline,
	   struct cl_answer *answer, char *why);

#endif
