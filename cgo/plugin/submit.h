/*
 * The check of a submission: the one thing that the plugin does in sbatch, srun
 * and salloc beside registering --secure.
 */
#ifndef CLOISTER_SUBMIT_H
#define CLOISTER_SUBMIT_H

/* The library, written in Go, lies beside the plugin. */
#define CL_SUBMIT_LIBRARY "cloister-submit.so"
#define CL_SUBMIT_FUNCTION "cloister_check_submission"

/* Bytes of each line that it says; its refusals have at most 503. */
#define CL_SUBMIT_BYTES 640

/* What the function returns; spank/library/main.go has the same. */
enum cl_submission {
	CL_SUBMISSION_GOOD = 0,
	CL_SUBMISSION_REFUSED = 1,
	CL_SUBMISSION_UNSEEN = 2,
};

#endif
