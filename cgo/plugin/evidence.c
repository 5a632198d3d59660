#define _GNU_SOURCE
#include "evidence.h"

#include "claim.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* A file in memory that nobody can change any more; larger than a datagram
 * may be. -1 with errno. */
static int sealed_file(const char *bytes, size_t n)
{
	int fd = memfd_create("cloister-claim", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	for (size_t at = 0; fd >= 0 && at < n;) {
		ssize_t put = write(fd, bytes + at, n - at);

		if (put <= 0) {
			close(fd);
			return -1;
		}
		at += (size_t)put;
	}
	if (fd >= 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK |
						      F_SEAL_GROW |
						      F_SEAL_WRITE) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static bool number(spank_t sp, spank_item_t item, uint32_t *n)
{
	return spank_get_item(sp, item, n) == ESPANK_SUCCESS;
}

static bool describe(spank_t sp, struct cl_claim *claim)
{
	char **argv = NULL, **env = NULL;
	uid_t uid;

	if (spank_get_item(sp, S_JOB_UID, &uid) != ESPANK_SUCCESS ||
	    !number(sp, S_JOB_ID, &claim->job) ||
	    !number(sp, S_JOB_STEPID, &claim->step) ||
	    !number(sp, S_JOB_NNODES, &claim->nodes) ||
	    !number(sp, S_JOB_TOTAL_TASK_COUNT, &claim->tasks) ||
	    spank_get_item(sp, S_JOB_ARGV, &claim->argc, &argv) !=
		    ESPANK_SUCCESS ||
	    spank_get_item(sp, S_JOB_ENV, &env) != ESPANK_SUCCESS || !env)
		return false;
	claim->uid = uid;
	claim->argv = argv;
	claim->env = env;
	return true;
}

bool cl_put_evidence(struct cl_writer *w, spank_t sp, int *file)
{
	char text[CL_PROOF_BYTES_MAX + 1], *bytes;
	struct cl_claim claim = { 0 };
	struct cl_proof proof;
	ssize_t n;

	/* absent, longer than a proof can be, or no proof: noded sees none */
	if (spank_getenv(sp, CL_PROOF_VARIABLE, text, sizeof(text)) !=
		    ESPANK_SUCCESS ||
	    cl_proof_read(text, &proof) < 0)
		return true;
	if (!describe(sp, &claim))
		return false;
	claim.cwd = proof.cwd;
	memcpy(claim.nonce, proof.nonce, sizeof(claim.nonce));
	if ((n = cl_claim_write(&claim, &bytes)) < 0)
		return false;
	*file = sealed_file(bytes, (size_t)n);
	free(bytes);
	cl_put(w, "proof", proof.mac);
	return *file >= 0;
}
