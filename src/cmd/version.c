#include "cmd/version.h"

#include <stdio.h>
#include <string.h>

#include "cmd/log.h"

/* The release of PostgreSQL whose tools we stand in for. */
#define STOCK_VERSION "18.6"

void
version_print(const Command *command)
{
    if (command != NULL && command->stock_name != NULL &&
        strcmp(log_progname(), command->stock_name) == 0)
        (void)printf("%s (PostgreSQL) %s (pgstow %s)\n", command->stock_name, STOCK_VERSION,
                     PGSTOW_VERSION);
    else
        (void)printf("pgstow %s (for PostgreSQL 10 to 18)\n", PGSTOW_VERSION);
}
