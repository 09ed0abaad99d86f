#include "cmd/log.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef enum Part { PART_ERROR, PART_WARNING, PART_NOTE, PART_LOCUS, PART_COUNT } Part;

static const char *const part_names[PART_COUNT] = {"error", "warning", "note", "locus"};

static const char *the_progname = "pgstow";
static bool coloured;

typedef struct Colour {
    bool on;
    char sgr[24]; /* what stands between ESC [ and m */
} Colour;

static Colour colours[PART_COUNT] = {
    {true, "01;31"}, {true, "01;35"}, {true, "01;36"}, {true, "01"}};

/* One "name=value" of PG_COLORS. */
static void
set_colour(const char *item, size_t len)
{
    for (int part = 0; part < PART_COUNT; part++) {
        size_t name = strlen(part_names[part]);

        if (len > name && strncmp(item, part_names[part], name) == 0 && item[name] == '=' &&
            len - name - 1 < sizeof colours[part].sgr) {
            memcpy(colours[part].sgr, item + name + 1, len - name - 1);
            colours[part].sgr[len - name - 1] = '\0';
            colours[part].on = true;
        }
    }
}

/* A part that the list does not name stays plain. */
static void
read_colours(const char *list)
{
    for (int part = 0; part < PART_COUNT; part++)
        colours[part].on = false;
    while (*list != '\0') {
        size_t len = strcspn(list, ":");

        set_colour(list, len);
        list += len;
        if (*list == ':')
            list++;
    }
}

void
log_init(const char *progname)
{
    const char *when = getenv("PG_COLOR");
    const char *list = getenv("PG_COLORS");

    the_progname = progname;
    if (when == NULL)
        return;
    coloured =
        strcmp(when, "always") == 0 || (strcmp(when, "auto") == 0 && isatty(STDERR_FILENO) == 1);
    if (coloured && list != NULL)
        read_colours(list);
}

const char *
log_progname(void)
{
    return the_progname;
}

static void
print_part(Part part, const char *text, const char *behind)
{
    if (coloured && colours[part].on)
        (void)fprintf(stderr, "\33[%sm%s%s\33[0m", colours[part].sgr, text, behind);
    else
        (void)fprintf(stderr, "%s%s", text, behind);
}

PRINTF_LIKE(3, 0)
static void
print_line(Part part, const char *label, const char *fmt, va_list args)
{
    /* One write for a line: other threads and the server's notices go to standard error too. */
    flockfile(stderr);
    (void)fflush(stdout);
    print_part(PART_LOCUS, the_progname, ": ");
    if (label != NULL)
        print_part(part, label, " ");
    (void)vfprintf(stderr, fmt, args);
    (void)fputc('\n', stderr);
    funlockfile(stderr);
}

void
log_error(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    print_line(PART_ERROR, "error:", fmt, args);
    va_end(args);
}

void
log_warning(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    print_line(PART_WARNING, "warning:", fmt, args);
    va_end(args);
}

void
log_hint(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    print_line(PART_NOTE, "hint:", fmt, args);
    va_end(args);
}

void
log_info(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    print_line(PART_NOTE, NULL, fmt, args);
    va_end(args);
}

void
log_failure(const Error *err)
{
    log_error("%s", err->message);
    if (err->hint[0] != '\0')
        log_hint("%s", err->hint);
}

void
log_help_hint(void)
{
    log_hint("Try \"%s --help\" for more information.", the_progname);
}
