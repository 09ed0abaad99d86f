/*
 * What --version says: under a stock name in the form that tools parse.
 */
#ifndef PGSTOW_VERSION_H
#define PGSTOW_VERSION_H

#include "cmd/options.h"

void version_print(const Command *command);

#endif
