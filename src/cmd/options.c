#include "cmd/options.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/log.h"
#include "cmd/version.h"

#define HELP_COLUMN 25

/* What getopt_long wants, made from a command's table. */
typedef struct Tables {
    char shorts[128];
    struct option *longs; /* ends with an entry of all zero */
    size_t long_count;
} Tables;

/* ---- help ---- */

/* "  -D, --pgdata=DIRECTORY"; returns how wide it came out. */
static int
print_option_name(const Option *option)
{
    const char *argument = option->argument == NULL ? "" : option->argument;
    const char *equals = option->argument == NULL ? "" : "=";

    if (option->id >= OPTION_LONG_ONLY)
        return printf("      --%s%s%s", option->long_name, equals, argument);
    if (option->long_name == NULL)
        return printf("  -%c %s", option->id, argument);
    return printf("  -%c, --%s%s%s", option->id, option->long_name, equals, argument);
}

static void
print_option(const Option *option)
{
    const char *line = option->help;
    int width = print_option_name(option);

    if (width >= HELP_COLUMN) {
        (void)putchar('\n');
        width = 0;
    }
    for (;;) {
        size_t len = strcspn(line, "\n");

        (void)printf("%*s%.*s\n", HELP_COLUMN - width, "", (int)len, line);
        if (line[len] == '\0')
            return;
        line += len + 1;
        width = 0;
    }
}

static void
print_help(const Command *command)
{
    const char *progname = log_progname();

    (void)printf("%s %s\n\nUsage:\n  %s %s\n", progname, command->summary, progname,
                 command->usage);
    for (const Option *option = command->options; option->help != NULL; option++) {
        if (option->id == 0)
            (void)printf("\n%s\n", option->help);
        else
            print_option(option);
    }
}

/* ---- parsing ---- */

static size_t
count_options(const Command *command)
{
    size_t count = 0;

    while (command->options[count].help != NULL)
        count++;
    return count;
}

/* getopt says '?' for a mistake; --help needs a value of its own. */
#define HELP_VALUE (OPTION_LONG_ONLY - 1)

static void
add_short(Tables *tables, const Option *option)
{
    size_t len = strlen(tables->shorts);

    if (option->id >= OPTION_LONG_ONLY || option->id == OPTION_HELP ||
        strchr(tables->shorts, option->id) != NULL)
        return;
    tables->shorts[len++] = (char)option->id;
    if (option->argument != NULL)
        tables->shorts[len++] = ':';
    tables->shorts[len] = '\0';
}

static void
add_long(Tables *tables, const Option *option)
{
    int has_arg = option->argument == NULL ? no_argument : required_argument;

    if (option->long_name == NULL)
        return;
    for (size_t i = 0; i < tables->long_count; i++) {
        if (strcmp(tables->longs[i].name, option->long_name) == 0) {
            if (tables->longs[i].has_arg != has_arg)
                tables->longs[i].has_arg = optional_argument;
            return;
        }
    }
    tables->longs[tables->long_count++] = (struct option){
        .name = option->long_name,
        .has_arg = has_arg,
        .val = option->id == OPTION_HELP ? HELP_VALUE : option->id,
    };
}

static bool
make_tables(const Command *command, Tables *tables)
{
    tables->longs = calloc(count_options(command) + 1, sizeof *tables->longs);
    if (tables->longs == NULL)
        return false;
    for (const Option *option = command->options; option->help != NULL; option++) {
        if (option->id == 0)
            continue;
        add_short(tables, option);
        add_long(tables, option);
    }
    return true;
}

static OptionResult
read_all(const Command *command, int argc, char **argv, const Tables *tables,
         bool (*take)(void *ctx, int id, const char *value), void *ctx)
{
    for (;;) {
        int id;

        if (optind < argc && strcmp(argv[optind], "-?") == 0) {
            print_help(command);
            return OPTIONS_EXIT_OK;
        }
        id = getopt_long(argc, argv, tables->shorts, tables->longs, NULL);
        if (id == -1)
            return OPTIONS_READ;
        if (id == HELP_VALUE) {
            print_help(command);
            return OPTIONS_EXIT_OK;
        }
        if (id == OPTION_VERSION) {
            version_print(command);
            return OPTIONS_EXIT_OK;
        }
        if (id == '?') {
            log_help_hint();
            return OPTIONS_EXIT_BAD;
        }
        if (!take(ctx, id, optarg))
            return OPTIONS_EXIT_BAD;
    }
}

OptionResult
options_read(const Command *command, int argc, char **argv,
             bool (*take)(void *ctx, int id, const char *value), void *ctx, int *ret_rest_count,
             char ***ret_rest)
{
    Tables tables = {.longs = NULL};
    OptionResult result;

    if (!make_tables(command, &tables)) {
        log_error("out of memory");
        return OPTIONS_EXIT_BAD;
    }
    optind = 1;
    result = read_all(command, argc, argv, &tables, take, ctx);
    free(tables.longs);
    *ret_rest_count = argc - optind;
    *ret_rest = argv + optind;
    return result;
}

bool
options_conflict(const char *text)
{
    log_error("%s", text);
    log_help_hint();
    return false;
}

bool
options_rest_allowed(int count, char **rest, int allowed)
{
    if (count <= allowed)
        return true;
    log_error("too many command-line arguments (first is \"%s\")", rest[allowed]);
    log_help_hint();
    return false;
}

bool
option_parse_int(const char *value, const char *option, int min, int max, int *ret_number)
{
    char *end;
    long number;

    errno = 0;
    number = strtol(value, &end, 10);
    if (end != value)
        end += strspn(end, " \t\n\r\f\v");
    if (end == value || *end != '\0') {
        log_error("invalid value \"%s\" for option %s", value, option);
        return false;
    }
    if (errno == ERANGE || number < min || number > max) {
        log_error("%s must be in range %d..%d", option, min, max);
        return false;
    }
    *ret_number = (int)number;
    return true;
}
