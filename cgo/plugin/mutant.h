/*
 * Test builds (-DCLOISTER_MUTANTS) can be told to do without one defence, to
 * show that a test then fails; package mutant is the same for Go. In a release
 * build the question is a constant false, and neither code nor mark is in it.
 */
#ifndef CLOISTER_MUTANT_H
#define CLOISTER_MUTANT_H

#include <stdbool.h>

#ifdef CLOISTER_MUTANTS
bool cl_mutant_removed(const char *defence);
#else
#define cl_mutant_removed(defence) false
#endif

#endif
