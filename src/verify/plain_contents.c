/*
 * The content of a plain backup: each file that is there with the right size is read once, for its
 * digest and for its pages. One whose digest differs is read again where backup_pages may know
 * which of its pages have changed.
 */
#include <stdlib.h>
#include <unistd.h>

#include "common/file.h"
#include "pgformat/relfile.h"
#include "verify/internal.h"

typedef struct PlainContents {
    Verifier *verifier;
    const PageRules *rules;
} PlainContents;

static bool
is_relation(const char *path)
{
    Oid tablespace;
    const char *below = archive_path(path, &tablespace);
    RelFile relation;

    return relfile_parse(below, tablespace, &relation);
}

static bool
plain_file(const void *ctx, size_t number, ContentFile *ret_file)
{
    const PlainContents *plain = ctx;
    const ManifestFile *file = manifest_file(plain->verifier->manifest, number);

    if (plain->verifier->marks[number] != MARK_SEEN)
        return false;
    if (file->checksum_type == CHECKSUM_NONE && (plain->rules == NULL || !is_relation(file->path)))
        return false;
    *ret_file = (ContentFile){.path = file->path, .size = file->size, .listed = file};
    return true;
}

/* ---- a file that has changed ---- */

/* Up to its end; what has become of it meanwhile was told already, or is another run's business. */
static bool
feed_compare(Verifier *verifier, const char *path, int fd, uint64_t size, Error *err)
{
    uint8_t *buffer = mem_alloc(CONTENT_PIECE, err);
    Error unread = ERROR_INIT;
    bool ok = buffer != NULL;
    uint64_t at = 0;
    size_t got;

    while (ok && at < size) {
        size_t want = size - at < CONTENT_PIECE ? (size_t)(size - at) : CONTENT_PIECE;

        if (!stop_check(verifier->config->stop, err))
            ok = false;
        else if (!file_read(fd, buffer, want, path, &got, &unread) || got < want)
            break;
        else
            ok = page_compare_feed(verifier->compare, (Span){buffer, got}, err);
        at += want;
    }
    free(buffer);
    if (!ok || at < size)
        return ok;
    return page_compare_report(verifier->compare, &verifier->reporter, err);
}

static bool
compare_pages(Verifier *verifier, const ContentFile *file, Error *err)
{
    FileFinding unopened = {.verdict = FILE_AGREES};
    char *path;
    bool ok = true;
    int fd;

    if (verifier->compare == NULL || !page_compare_begin(verifier->compare, file->path, file->size))
        return true;
    path = path_join(verifier->config->directory, file->path, err);
    if (path == NULL)
        return false;
    fd = content_open(path, &unopened);
    if (fd >= 0) {
        ok = feed_compare(verifier, path, fd, file->size, err);
        file_close_quietly(fd);
    }
    free(path);
    return ok;
}

static bool
plain_report(void *ctx, const ContentFile *file, const FileFinding *finding, Error *err)
{
    Verifier *verifier = ((PlainContents *)ctx)->verifier;
    Reporter *reporter = &verifier->reporter;

    if (!report_finding(reporter, file, finding, err))
        return false;
    if (!reporter->enough && !report_pages(reporter, file->path, &finding->pages, err))
        return false;
    return reporter->enough || finding->verdict != FILE_DIFFERS ||
           compare_pages(verifier, file, err);
}

/* ---- the step ---- */

bool
verifier_check_contents(Verifier *verifier, Error *err)
{
    PlainContents plain = {.verifier = verifier};
    ContentList list = {.count = manifest_file_count(verifier->manifest),
                        .ctx = &plain,
                        .file = plain_file,
                        .report = plain_report};
    PageRules rules;

    if (verifier->config->skip_checksums)
        return true;
    if (!verifier->config->skip_pages && verifier->has_control &&
        control_page_rules(&verifier->control, verifier_wal_start(verifier), &rules)) {
        plain.rules = list.rules = &rules;
        verifier->summary.has_pages = true;
    }
    /* One that is listed was left in the cluster by a restore: it tells of another backup. */
    if (manifest_find(verifier->manifest, PAGE_DIGESTS_NAME) == NULL &&
        !verifier_open_digests(verifier, err))
        return false;
    return verifier->reporter.enough || contents_check(verifier, &list, err);
}
