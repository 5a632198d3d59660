/*
 * Which of the variables that came with the step may stay.
 *
 * Everything that reaches the node with a job is in the hands of whoever can
 * alter a submission: BASH_ENV, LD_PRELOAD, SLURM_CONF and many others run
 * code. So nothing stays but Slurm's own facts about the job, each only while
 * its value looks like such a fact; a value that does not is dropped too.
 */
#ifndef CLOISTER_ENVIRONMENT_H
#define CLOISTER_ENVIRONMENT_H

#include <stdbool.h>
#include <stddef.h>

/* Whether the variable, NAME=VALUE, may stay. */
bool cl_env_allowed(const char *variable);

/*
 * Moves what may stay to the front of env, the first of each name only, and
 * sets all else to NULL, the places behind included: Slurm looks for the end
 * of the array from its last slot. Returns how many stay.
 */
size_t cl_env_filter(char **env);

/*
 * The same for a proven step: its proof covers every variable that is not of
 * Slurm's making (claim.h), so those stay whatever they are.
 */
size_t cl_env_filter_proven(char **env);

#endif
