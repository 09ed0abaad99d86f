/*
 * The command line of pg_verifybackup, and what goes together.
 */
#include <stdlib.h>
#include <string.h>

#include "cmd/log.h"
#include "cmd/verifybackup_cmd.h"
#include "common/bytes.h"
#include "common/file.h"

#define MAX_JOBS 1024

enum { OPT_PAGES = OPTION_LONG_ONLY, OPT_REPORT, OPT_SKIP_PAGES };

const Option verifybackup_options[] = {
    {0, NULL, NULL, "Options:"},
    {'e', "exit-on-error", NULL, "exit immediately on error"},
    {'F', "format", "p|t", "backup format (plain, tar)"},
    {'i', "ignore", "RELATIVE_PATH", "ignore indicated path"},
    {'m', "manifest-path", "PATH", "use specified path for manifest"},
    {'n', "no-parse-wal", NULL, "do not try to parse WAL files"},
    {'P', "progress", NULL, "show progress information"},
    {'q', "quiet", NULL, "do not print any output, except for errors"},
    {'s', "skip-checksums", NULL, "skip checksum verification"},
    {'w', "wal-directory", "PATH", "use specified path for WAL files"},
    COMMON_OPTIONS,
    {0, NULL, NULL, "Options that the stock tool does not have:"},
    {'j', "jobs", "NUM", "use this many threads (default: one per processor)"},
    {OPT_PAGES, "pages", NULL,
     "check the data pages of a cluster that is shut down,\n"
     "without a manifest"},
    {OPT_REPORT, "report", "text|json", "print the result as text (default) or as JSON"},
    {OPT_SKIP_PAGES, "skip-pages", NULL, "do not check data pages"},
    {0, NULL, NULL, NULL},
};

static bool
out_of_memory(void)
{
    log_error("out of memory");
    return false;
}

/* ---- values of options ---- */

static bool
add_ignore(VerifyRequest *request, const char *value)
{
    Error err = ERROR_INIT;
    char *path = strdup(value);
    size_t count = request->verify.ignore_count;

    if (path == NULL || !mem_grow((void **)&request->ignore, &request->ignore_capacity, count + 1,
                                  sizeof(char *), &err)) {
        free(path);
        return out_of_memory();
    }
    path_canonicalize(path);
    request->ignore[count] = path;
    request->verify.ignore = (const char *const *)request->ignore;
    request->verify.ignore_count = count + 1;
    return true;
}

static bool
parse_format(const char *value, VerifyTarget *ret_target)
{
    if (strcmp(value, "p") == 0 || strcmp(value, "plain") == 0) {
        *ret_target = TARGET_PLAIN;
    } else if (strcmp(value, "t") == 0 || strcmp(value, "tar") == 0) {
        *ret_target = TARGET_TAR;
    } else {
        log_error("invalid backup format \"%s\", must be \"plain\" or \"tar\"", value);
        return false;
    }
    return true;
}

static bool
parse_report(const char *value, ReportStyle *ret_style)
{
    if (strcmp(value, "text") == 0) {
        *ret_style = REPORT_TEXT;
    } else if (strcmp(value, "json") == 0) {
        *ret_style = REPORT_JSON;
    } else {
        log_error("invalid report format \"%s\", must be \"text\" or \"json\"", value);
        return false;
    }
    return true;
}

static bool
parse_jobs(const char *value, unsigned *ret_jobs)
{
    int jobs;

    if (!option_parse_int(value, "-j/--jobs", 1, MAX_JOBS, &jobs))
        return false;
    *ret_jobs = (unsigned)jobs;
    return true;
}

/* ---- taking an option ---- */

/* What --pages has no use for: how the option is called; NULL for others. */
static const char *
name_about_backups(int id)
{
    switch (id) {
    case 'F':
        return "-F/--format";
    case 'i':
        return "-i/--ignore";
    case 'm':
        return "-m/--manifest-path";
    case 'n':
        return "-n/--no-parse-wal";
    case 's':
        return "-s/--skip-checksums";
    case 'w':
        return "-w/--wal-directory";
    case OPT_SKIP_PAGES:
        return "--skip-pages";
    default:
        return NULL;
    }
}

/* Options without a value: what they set; NULL for others. */
static bool *
flag_of(VerifyRequest *request, int id)
{
    switch (id) {
    case 'e':
        return &request->exit_on_error;
    case 'n':
        return &request->verify.skip_wal;
    case 'P':
        return &request->show_progress;
    case 'q':
        return &request->quiet;
    case 's':
        return &request->verify.skip_checksums;
    case OPT_PAGES:
        return &request->pages;
    case OPT_SKIP_PAGES:
        return &request->verify.skip_pages;
    default:
        return NULL;
    }
}

static bool
take_option(void *ctx, int id, const char *value)
{
    VerifyRequest *request = ctx;
    bool *flag = flag_of(request, id);

    if (request->about_backups == NULL)
        request->about_backups = name_about_backups(id);
    switch (id) {
    case 'F':
        return parse_format(value, &request->target);
    case 'i':
        return add_ignore(request, value);
    case 'j':
        return parse_jobs(value, &request->verify.jobs);
    case 'm':
        request->verify.manifest_path = value;
        break;
    case 'w':
        request->verify.wal_directory = value;
        break;
    case OPT_REPORT:
        return parse_report(value, &request->report);
    default:
        if (flag != NULL)
            *flag = true;
        break;
    }
    return true;
}

/* ---- what goes together ---- */

static bool
refuse_both(const char *one, const char *other)
{
    log_error("cannot specify both %s and %s", one, other);
    return false;
}

/* Exactly one directory behind the options. */
static bool
take_directory(VerifyRequest *request, int count, char **rest)
{
    if (count == 0)
        return options_conflict("no backup directory specified");
    if (!options_rest_allowed(count, rest, 1))
        return false;
    request->directory = strdup(rest[0]);
    if (request->directory == NULL)
        return out_of_memory();
    path_canonicalize(request->directory);
    request->verify.directory = request->directory;
    return true;
}

static bool
settle_request(VerifyRequest *request)
{
    if (request->show_progress && request->quiet)
        return refuse_both("-P/--progress", "-q/--quiet");
    if (!request->pages)
        return true;
    if (request->about_backups != NULL)
        return refuse_both("--pages", request->about_backups);
    request->target = TARGET_CLUSTER;
    return true;
}

OptionResult
verify_request_read(VerifyRequest *request, const Command *command, int argc, char **argv)
{
    int count;
    char **rest;
    OptionResult result;

    *request = (VerifyRequest){.target = TARGET_AS_FOUND};
    result = options_read(command, argc, argv, take_option, request, &count, &rest);
    if (result == OPTIONS_READ &&
        (!take_directory(request, count, rest) || !settle_request(request)))
        return OPTIONS_EXIT_BAD;
    return result;
}

void
verify_request_free(VerifyRequest *request)
{
    for (size_t i = 0; i < request->verify.ignore_count; i++)
        free(request->ignore[i]);
    free(request->ignore);
    free(request->directory);
}
