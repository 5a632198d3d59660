/*
 * What users read in the job's output: a cause, and what to do next, a line
 * each.
 */
#ifndef CLOISTER_SAY_H
#define CLOISTER_SAY_H

void cl_say(const char *cause, const char *next);
void cl_say_failed(const char *phase, const char *cause, const char *next);
void cl_say_unchecked(const char *why);

#endif
