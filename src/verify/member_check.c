/*
 * The names in an archive are those below its root; the manifest's are those below the data
 * directory, where a tablespace is pg_tblspc/<oid>. Messages name members as pg_verifybackup does:
 * as the archive has them when it is about the archive, as the manifest has them when it is about
 * the content.
 */
#include <string.h>

#include "pgformat/control.h"
#include "stream/stage.h"
#include "verify/internal.h"

typedef struct MemberCheck {
    Sink sink;
    Verifier *verifier;
    const char *archive;
    ArchivePages *pages; /* NULL: nobody looks at them */

    /* ---- the member at hand ---- */
    Buf path;                           /* as the manifest has it */
    const ManifestFile *file;           /* that it is; NULL: what passes is of no interest */
    bool digested;                      /* by `checksum` */
    bool paged;                         /* `pages` looks at it */
    bool compared;                      /* the verifier's page_compare looks at it */
    bool is_control;                    /* it is pg_control, of which we keep: */
    uint8_t control[CONTROL_FILE_SIZE]; /* up to its size */
    size_t control_len;
    Checksum checksum;
} MemberCheck;

static Reporter *
reporter_of(const MemberCheck *check)
{
    return &check->verifier->reporter;
}

/* ---- a member begins ---- */

static bool
report_extra(MemberCheck *check, const Entry *entry, Error *err)
{
    Problem problem = {.kind = PROBLEM_EXTRA, .path = buf_text(&check->path)};

    return report(reporter_of(check), &problem, err,
                  "file \"%s\" is present in archive \"%s\" but not in the manifest", entry->path,
                  check->archive);
}

static bool
report_size(MemberCheck *check, const ManifestFile *file, const Entry *entry, Error *err)
{
    Problem problem = {
        .kind = PROBLEM_SIZE, .path = file->path, .expected = file->size, .found = entry->size};

    return report(reporter_of(check), &problem, err,
                  "file \"%s\" has size %llu in archive \"%s\" but size %llu in the manifest",
                  entry->path, (unsigned long long)entry->size, check->archive,
                  (unsigned long long)file->size);
}

static void
mark(MemberCheck *check, const ManifestFile *file, FileMark as)
{
    check->verifier->marks[manifest_file_index(check->verifier->manifest, file)] = (uint8_t)as;
}

/* What is to be looked at of its content. */
static bool
begin_content(MemberCheck *check, const ManifestFile *file, const Entry *entry, Error *err)
{
    const Verifier *verifier = check->verifier;
    bool asked = !verifier->config->skip_checksums;

    check->file = file;
    check->is_control = strcmp(file->path, CONTROL_PATH) == 0;
    check->control_len = 0;
    check->digested = asked && file->checksum_type != CHECKSUM_NONE;
    check->paged = asked && check->pages != NULL &&
                   archive_pages_begin(check->pages, entry, check->sink.tablespace);
    check->compared = check->digested && verifier->compare != NULL &&
                      page_compare_begin(verifier->compare, file->path, file->size);
    return !check->digested || checksum_begin(&check->checksum, file->checksum_type, err);
}

static bool
begin_file(MemberCheck *check, const Entry *entry, Error *err)
{
    const ManifestFile *file;

    if (path_set_covers(&check->verifier->ignore, buf_text(&check->path)))
        return true;
    file = manifest_find(check->verifier->manifest, buf_text(&check->path));
    if (file == NULL)
        return report_extra(check, entry, err);
    if (file->size != entry->size) {
        mark(check, file, MARK_BAD);
        return report_size(check, file, entry, err);
    }
    return begin_content(check, file, entry, err);
}

/* It and those above it: unpacking makes them, whether they are members or not. */
static void
note_directories(MemberCheck *check, const Entry *entry)
{
    Buf *path = &check->path;

    if (check->sink.tablespace != 0)
        return;
    if (entry->kind == ENTRY_DIRECTORY)
        verifier_note_directory(check->verifier, buf_text(path));
    for (size_t len = path->len; len > 0; len--) {
        if (path->data[len] != '/')
            continue;
        path->data[len] = '\0';
        verifier_note_directory(check->verifier, buf_text(path));
        path->data[len] = '/';
    }
}

static bool
begin_entry(Sink *self, const Entry *entry, Error *err)
{
    MemberCheck *check = (MemberCheck *)self;

    check->file = NULL;
    if (reporter_of(check)->enough)
        return true;
    if (!member_path(self->tablespace, entry, &check->path, err))
        return false;
    note_directories(check, entry);
    return entry->kind != ENTRY_FILE || begin_file(check, entry, err);
}

/* ---- its content ---- */

static void
keep_control(MemberCheck *check, Span data)
{
    size_t room = sizeof check->control - check->control_len;
    size_t len = data.len < room ? data.len : room;

    memcpy(check->control + check->control_len, data.data, len);
    check->control_len += len;
}

/* One that cannot be read any more is as bad as one that is damaged. */
static bool
compare_failed(MemberCheck *check, const Error *failure, Error *err)
{
    check->compared = false;
    if (failure->code == ERR_SYSTEM || failure->code == ERR_FORMAT)
        return verifier_report_digests(check->verifier, failure->message, err);
    *err = *failure;
    return false;
}

static bool
add_compared(MemberCheck *check, Span data, Error *err)
{
    Error failure = ERROR_INIT;

    return page_compare_feed(check->verifier->compare, data, &failure) ||
           compare_failed(check, &failure, err);
}

static bool
add_data(Sink *self, Span data, Error *err)
{
    MemberCheck *check = (MemberCheck *)self;

    if (check->file == NULL)
        return true;
    if (check->is_control)
        keep_control(check, data);
    if (check->digested && !checksum_update(&check->checksum, data.data, data.len, err))
        return false;
    if (check->compared && !add_compared(check, data, err))
        return false;
    return !check->paged || archive_pages_feed(check->pages, data, err);
}

/* ---- its end ---- */

static bool
report_changed(MemberCheck *check, const ManifestFile *file, const Problem *problem, Error *err)
{
    Reporter *reporter = reporter_of(check);

    if (!report(reporter, problem, err, "checksum mismatch for file \"%s\" in archive \"%s\"",
                file->path, check->archive))
        return false;
    return !check->compared || reporter->enough ||
           page_compare_report(check->verifier->compare, reporter, err);
}

static bool
check_digest(MemberCheck *check, const ManifestFile *file, Error *err)
{
    Problem problem;
    Digest digest;

    if (!check->digested)
        return true;
    if (!checksum_finish(&check->checksum, &digest, err))
        return false;
    problem = digest_problem(file, (Span){.data = digest.bytes, .len = digest.len});
    switch (digest_check(file, digest.bytes, digest.len)) {
    case DIGEST_AGREES:
        break;
    case DIGEST_OTHER_LENGTH:
        return report(reporter_of(check), &problem, err,
                      "file \"%s\" in archive \"%s\" has checksum of length %u, but expected %u",
                      file->path, check->archive, file->checksum_len, digest.len);
    case DIGEST_DIFFERS:
        return report_changed(check, file, &problem, err);
    }
    return true;
}

static bool
end_pages(MemberCheck *check, const ManifestFile *file, Error *err)
{
    size_t index = manifest_file_index(check->verifier->manifest, file);

    return !check->paged || archive_pages_end(check->pages, index, err);
}

static bool
check_control(MemberCheck *check, const ManifestFile *file, Error *err)
{
    Span content = {.data = check->control, .len = check->control_len};
    Buf where = BUF_INIT;
    bool ok;

    if (!check->is_control || reporter_of(check)->enough)
        return true;
    ok = buf_printf(&where, err, "%s: %s", check->archive, file->path) &&
         verifier_check_control(check->verifier, file, buf_text(&where), content, err);
    buf_free(&where);
    return ok;
}

static void
count_file(MemberCheck *check, const ManifestFile *file)
{
    if (!check->digested && !check->paged)
        return;
    check->verifier->summary.files++;
    check->verifier->summary.bytes += file->size;
}

static bool
end_entry(Sink *self, Error *err)
{
    MemberCheck *check = (MemberCheck *)self;
    const ManifestFile *file = check->file;

    if (file == NULL)
        return true;
    mark(check, file, MARK_SEEN);
    count_file(check, file);
    return check_digest(check, file, err) && check_control(check, file, err) &&
           end_pages(check, file, err);
}

/* ---- the stage ---- */

static const WatchOps member_check_watch = {
    .entry_begin = begin_entry,
    .data = add_data,
    .entry_end = end_entry,
};

static bool
member_check_push(Sink *self, const Event *event, Error *err)
{
    return sink_watch(self, &member_check_watch, event, err);
}

static void
member_check_release(Sink *self)
{
    MemberCheck *check = (MemberCheck *)self;

    buf_free(&check->path);
    checksum_free(&check->checksum);
}

static const SinkOps member_check_ops = {
    .name = "member_check", .push = member_check_push, .release = member_check_release};

Sink *
member_check_new(Verifier *verifier, const char *archive, ArchivePages *pages, Sink *next,
                 Error *err)
{
    MemberCheck *check = sink_alloc(sizeof *check, &member_check_ops, next, err);

    if (check == NULL)
        return NULL;
    check->verifier = verifier;
    check->archive = archive;
    check->pages = pages;
    check->path = BUF_INIT;
    check->checksum = CHECKSUM_INIT;
    return &check->sink;
}
