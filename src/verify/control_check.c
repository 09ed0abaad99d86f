#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "common/file.h"
#include "pgformat/page.h"
#include "verify/internal.h"

/* The one kind of page checksums that there is. */
#define DATA_CHECKSUM_VERSION 1

bool
verifier_check_control(Verifier *verifier, const ManifestFile *file, const char *where,
                       Span content, Error *err)
{
    Problem problem = {.kind = PROBLEM_CONTROL, .path = file->path};
    Error damage = ERROR_INIT;
    ControlData control;
    uint64_t expected;
    bool known = manifest_system_id(verifier->manifest, &expected); /* not in version 1 */

    if (!control_parse(content, &control, &damage))
        return !known ||
               report(&verifier->reporter, &problem, err, "%s: %s", where, damage.message);
    verifier->control = control;
    verifier->has_control = true;
    if (!known || control.system_id == expected)
        return true;
    problem.kind = PROBLEM_SYSTEM_ID;
    return report(&verifier->reporter, &problem, err,
                  "%s: manifest system identifier is %llu, but control file has %llu", where,
                  (unsigned long long)expected, (unsigned long long)control.system_id);
}

bool
control_read(const char *path, uint8_t *bytes, size_t *ret_len, Error *err)
{
    int fd = file_open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, err);
    bool ok = fd >= 0 && file_read(fd, bytes, CONTROL_FILE_SIZE, path, ret_len, err);

    file_close_quietly(fd);
    return ok;
}

static bool
report_unread(Verifier *verifier, const ManifestFile *file, int errnum, Error *err)
{
    const Problem problem = {.kind = PROBLEM_UNREADABLE, .path = file->path};
    char reason[ERRNO_TEXT_SIZE];

    verifier->marks[manifest_file_index(verifier->manifest, file)] = MARK_BAD;
    return report(&verifier->reporter, &problem, err, "could not open file \"%s\": %s", file->path,
                  errno_text(errnum, reason));
}

bool
verifier_read_control(Verifier *verifier, const ManifestFile *file, Error *err)
{
    char *path = path_join(verifier->config->directory, file->path, err);
    uint8_t bytes[CONTROL_FILE_SIZE];
    Span content = {.data = bytes};
    Error unread = ERROR_INIT;
    bool ok;

    if (path == NULL)
        return false;
    if (control_read(path, bytes, &content.len, &unread))
        ok = verifier_check_control(verifier, file, file->path, content, err);
    else
        ok = report_unread(verifier, file, unread.sys_errno, err);
    free(path);
    return ok;
}

bool
control_page_rules(const ControlData *control, Lsn start, PageRules *ret_rules)
{
    if (control->data_checksum_version != DATA_CHECKSUM_VERSION ||
        !page_size_valid(control->block_size))
        return false;
    *ret_rules = (PageRules){.page_size = control->block_size,
                             .segment_pages = control->relation_segment_blocks,
                             .start = start};
    return true;
}
