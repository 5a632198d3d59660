#include "mutant.h"

#ifdef CLOISTER_MUTANTS

#include <stdio.h>
#include <string.h>

/* Found in every binary of a mutants build and in no other. */
__attribute__((used)) static const char mark[] =
	"cloister-mutants-build-do-not-ship";

bool cl_mutant_removed(const char *defence)
{
	char line[64];
	bool removed = false;
	FILE *f = fopen("/run/cloister-mutants", "re");

	if (!f)
		return false;
	while (!removed && fscanf(f, "%63s", line) == 1)
		removed = strcmp(line, defence) == 0;
	fclose(f);
	return removed;
}

#else

/* ISO C wants a declaration in every file. */
typedef int cl_no_mutants;

#endif
