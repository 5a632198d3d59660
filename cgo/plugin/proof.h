/* In srun, in a job view: prove that a step was started inside the session. */
#ifndef CLOISTER_PROOF_H
#define CLOISTER_PROOF_H

#include "claim.h"

/* Where a job view has the session's step key, 32 bytes, for the user alone.
 * Nowhere else is such a file. */
#define CL_STEP_KEY "/run/cloister/step-key"

enum { CL_STEP_KEY_BYTES = 32 };

/*
 * Makes the proof of a claim, whose nonce it chooses, with the key in the file
 * at path. Returns 0, or -1 and a reason; 1 when there is no such file, which
 * is to say outside of every session.
 */
int cl_prove(const char *path, struct cl_claim *claim,
	     char proof[CL_PROOF_BYTES_MAX + 1], char *why, size_t room);

#endif
