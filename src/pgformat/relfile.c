#include "pgformat/relfile.h"

#include <stddef.h>
#include <string.h>

/* Moves *text behind `prefix` when it begins with that. */
static bool
prefix_take(const char **text, const char *prefix)
{
    size_t len = strlen(prefix);

    if (strncmp(*text, prefix, len) != 0)
        return false;
    *text += len;
    return true;
}

/* A number that has only one spelling; moves *text behind it. */
static bool
number_take(const char **text, uint32_t *ret_number)
{
    uint64_t number = 0;

    if (**text == '0')
        return false;
    while (**text >= '0' && **text <= '9') {
        number = number * 10 + (uint64_t)(**text - '0');
        if (number > UINT32_MAX)
            return false;
        (*text)++;
    }
    *ret_number = (uint32_t)number;
    return number != 0;
}

/* "PG_18_202506291/": the server that made the directory. */
static bool
version_take(const char **text)
{
    const char *slash;

    if (!prefix_take(text, "PG_"))
        return false;
    slash = strchr(*text, '/');
    if (slash == NULL || slash == *text)
        return false;
    *text = slash + 1;
    return true;
}

static bool
directory_take(const char **text, Oid tablespace, Oid *ret_database)
{
    if (tablespace == 0 && prefix_take(text, "global/")) {
        *ret_database = 0;
        return true;
    }
    return (tablespace == 0 ? prefix_take(text, "base/") : version_take(text)) &&
           number_take(text, ret_database) && prefix_take(text, "/");
}

static RelFork
fork_take(const char **text)
{
    if (prefix_take(text, "_fsm"))
        return FORK_FSM;
    if (prefix_take(text, "_vm"))
        return FORK_VM;
    if (prefix_take(text, "_init"))
        return FORK_INIT;
    return FORK_MAIN;
}

bool
relfile_parse(const char *path, Oid tablespace, RelFile *ret_file)
{
    RelFile file = {.segment = 0};

    if (!directory_take(&path, tablespace, &file.database))
        return false;
    file.incremental = prefix_take(&path, "INCREMENTAL.");
    if (!number_take(&path, &file.number))
        return false;
    file.fork = fork_take(&path);
    if (prefix_take(&path, ".") && !number_take(&path, &file.segment))
        return false;
    if (*path != '\0')
        return false;
    *ret_file = file;
    return true;
}
