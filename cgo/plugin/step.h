/*
 * What the plugin knows of the step that this slurmstepd runs. One process is
 * one step, so this is one static structure; the forked tasks inherit it.
 */
#ifndef CLOISTER_STEP_H
#define CLOISTER_STEP_H

#include "client.h"

#include <sys/types.h>

/* Where this node stands, from plugstack.conf. */
enum cl_node {
	CL_NODE_ORDINARY, /* no node=: it runs no noded */
	CL_NODE_SECURE,   /* node=dedicated or node=on-demand: noded decides */
	CL_NODE_UNKNOWN,  /* arguments that nobody understands: refuse all */
};

enum cl_state {
	CL_UNTOUCHED, /* not ours: an ordinary step */
	CL_REFUSED,
	CL_ADMITTED,
};

struct cl_step {
	enum cl_node node;
	bool secure; /* --secure was given */
	enum cl_state state;
	bool batch;
	bool joined;          /* admitted as a proven step of a session */
	pid_t parent;         /* the slurmstepd that asked */
	int lifeline;         /* -1 when there is none */
	int status;           /* wait status of task 0 */
	bool keep_environment; /* mutants builds only */
	bool keep_input;       /* mutants builds only */
	bool allow_exec;       /* mutants builds only */
	bool any_directory;    /* mutants builds only */
	bool keep_output;      /* mutants builds only */
	/* the plugin's own reason to refuse, and what to do about it */
	char why[CL_WHY_BYTES + 128];
	const char *next;
	struct cl_answer *answer;     /* noded's, NULL before it came */
};

extern struct cl_step cl_step;

#endif
