/*
 * What a step of a session claims to be, as bytes that srun and slurmstepd
 * make alike and that noded checks: the input of the proof's HMAC-SHA256.
 *
 * The form is that of a datagram (message.h), first field cloister-step=1,
 * then job, step, uid, nnodes, ntasks, nonce, cwd, each arg in order and each
 * env in the order of its bytes. noded/stepproof/claim.go reads it. No Slurm
 * here and no cryptography.
 */
#ifndef CLOISTER_CLAIM_H
#define CLOISTER_CLAIM_H

#include "message.h"

#include <sys/types.h>

/* Where the proof travels: Slurm sends every SLURM* variable, whatever
 * --export says, and the environment's filter keeps it from the tasks. */
#define CL_PROOF_VARIABLE "SLURM_CLOISTER_PROOF"

enum {
	CL_NONCE_BYTES = 16,
	CL_MAC_BYTES = 32,              /* HMAC-SHA256 */
	CL_CLAIM_MAX = 8 * 1024 * 1024, /* bytes; stepproof.MaxClaim */
	/* of a proof: three colons, the version, and its parts */
	CL_PROOF_BYTES_MAX =
		4 + 2 * CL_NONCE_BYTES + 2 * CL_MAC_BYTES + CL_PATH_BYTES_MAX,
};

struct cl_claim {
	uint32_t job, step, uid, nodes, tasks;
	char nonce[2 * CL_NONCE_BYTES + 1]; /* lower-case hexadecimal */
	const char *cwd;
	char *const *argv;
	int argc;
	char *const *env; /* NULL-terminated; Slurm's own are left out */
};

/*
 * Whether a variable, NAME=VALUE, is of Slurm's making. srun and slurmd set
 * and change these on the way, so no proof covers them.
 */
bool cl_env_is_slurms(const char *variable);

/* Writes the claim to *bytes, which the caller frees. Its length, or -1. */
ssize_t cl_claim_write(const struct cl_claim *claim, char **bytes);

/* A proof taken apart: 1:NONCE:MAC:CWD. */
struct cl_proof {
	char nonce[2 * CL_NONCE_BYTES + 1];
	char mac[2 * CL_MAC_BYTES + 1];
	const char *cwd; /* in the text that was read */
};

/* Reads a proof. Returns 0, or -1 when it is not one. */
int cl_proof_read(const char *text, struct cl_proof *proof);

/* Writes bytes as lower-case hexadecimal digits and a NUL to text. */
void cl_hex(const unsigned char *bytes, size_t n, char *text);

#endif
