/*
 * What a kind of problem is called for programs: in docs/progress.md and docs/formats.md.
 */
#ifndef PGSTOW_PROBLEM_KIND_H
#define PGSTOW_PROBLEM_KIND_H

#include "verify/verify.h"

const char *problem_kind_name(ProblemKind kind);

#endif
