/* In slurmstepd: what speaks for a step that is no batch script. */
#ifndef CLOISTER_EVIDENCE_H
#define CLOISTER_EVIDENCE_H

#include "message.h"

#include <slurm/spank.h>

/*
 * Puts the proof that came with the step into the request, and into *file a
 * sealed file with the claim as it follows from what slurmstepd is about to
 * run. A step that brings no proof gets neither. False when Slurm or the
 * kernel fails.
 */
bool cl_put_evidence(struct cl_writer *w, spank_t sp, int *file);

#endif
