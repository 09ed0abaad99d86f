/*
 * For tests that ask for more memory than there can be: sanitizers end the process then, unless
 * they are told otherwise before main begins. What tells them is linked in by whoever names
 * HUGE_ALLOCATION.
 */
#ifndef PGSTOW_TESTS_HUGE_ALLOCATION_H
#define PGSTOW_TESTS_HUGE_ALLOCATION_H

#include <stddef.h>

/* Bytes that malloc refuses. Volatile: compilers warn of what they see. */
extern const volatile size_t huge_allocation;

#define HUGE_ALLOCATION ((size_t)huge_allocation)

#endif
