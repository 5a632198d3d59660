/*
 * Libraries that lie in the plugin's own directory.
 */
#ifndef CLOISTER_BESIDE_H
#define CLOISTER_BESIDE_H

#include <stddef.h>

/* Room for a reason. */
#define CL_BESIDE_BYTES 512

/*
 * Opens `file`, bound at once, from the directory of the library that this is
 * called from. Returns NULL and a reason.
 */
void *cl_open_beside(const char *file, char *why, size_t size);

/* The reason for which the last dlopen or dlsym failed. */
void cl_beside_failed(char *why, size_t size);

#endif
