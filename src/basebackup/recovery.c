/*
 * The stage of -R. A file's size is announced before its content, and what has to come behind the
 * server's settings depends on their last byte: a line end of our own or none. So they are held
 * back until they have ended. Settings that are too many for that get the line end in any case,
 * which is one empty line at worst.
 */
#include <string.h>
#include <time.h>

#include "basebackup/internal.h"
#include "common/file.h"
#include "stream/stage.h"
#include "stream/tar.h"

#define SETTINGS_NAME "postgresql.auto.conf"
#define SIGNAL_NAME   "standby.signal"
#define OWN_FILE_NAME "recovery.conf"

/* Far beyond any real postgresql.auto.conf. */
#define HELD_MAX ((uint64_t)1024 * 1024)

typedef enum InjectState {
    INJECT_PASS,  /* in an entry that does not concern us, or in none */
    INJECT_DROP,  /* in one that we make ourselves */
    INJECT_HOLD,  /* in the settings, which go on as a whole */
    INJECT_APPEND /* in settings that are too large for that */
} InjectState;

typedef struct RecoveryInject {
    Sink sink;
    Buf text;
    bool in_own_file;
    mode_t file_mode;

    bool has_text; /* its settings have had the text */
    InjectState state;

    /* The settings while they pass. */
    Entry settings;
    uint8_t tar_header[TAR_BLOCK];
    uint64_t received; /* how much of them has come */
    Buf held;
    bool flush_owed; /* a FLUSH came while they were held back */
    Lsn flush_mark;
} RecoveryInject;

/* ---- the text ---- */

/* As guc-file.l reads a quoted value, which ends with its line. */
static bool
append_quoted(Buf *text, const char *value, Error *err)
{
    bool ok = buf_append(text, "'", 1, err);

    for (; ok && *value != '\0'; value++) {
        if (*value == '\n')
            ok = buf_append(text, "\\n", 2, err);
        else if (*value == '\'' || *value == '\\')
            ok = buf_append(text, (const char[]){*value, *value}, 2, err);
        else
            ok = buf_append(text, value, 1, err);
    }
    return ok && buf_append(text, "'", 1, err);
}

static bool
append_setting(Buf *text, const char *name, const char *value, Error *err)
{
    return buf_printf(text, err, "%s = ", name) && append_quoted(text, value, err) &&
           buf_append(text, "\n", 1, err);
}

bool
recovery_text(const char *conninfo, const char *slot, bool in_own_file, Buf *text, Error *err)
{
    return (!in_own_file || append_setting(text, "standby_mode", "on", err)) &&
           append_setting(text, "primary_conninfo", conninfo, err) &&
           (slot == NULL || append_setting(text, "primary_slot_name", slot, err));
}

static Span
content_of(const Buf *buf)
{
    return (Span){.data = buf->data, .len = buf->len};
}

/* ---- the server's settings ---- */

/* What the event points to is not ours to keep. */
static void
keep_entry(RecoveryInject *inject, const Entry *entry)
{
    inject->settings = (Entry){
        .kind = ENTRY_FILE, .path = SETTINGS_NAME, .size = entry->size, .mode = entry->mode};
    if (entry->tar_header != NULL) {
        memcpy(inject->tar_header, entry->tar_header, sizeof inject->tar_header);
        inject->settings.tar_header = inject->tar_header;
    }
    inject->received = 0;
    buf_clear(&inject->held);
}

static bool
announce_settings(RecoveryInject *inject, bool own_line, Error *err)
{
    Entry entry = inject->settings;

    entry.size += (own_line ? 1 : 0) + inject->text.len;
    entry.mtime = (int64_t)time(NULL);
    return sink_entry_begin(inject->sink.next, &entry, err);
}

/* What comes behind the server's own, and the end of the entry. */
static bool
complete_settings(RecoveryInject *inject, bool own_line, Error *err)
{
    Sink *next = inject->sink.next;

    inject->has_text = true;
    return (!own_line || sink_data(next, span_of("\n"), err)) &&
           sink_data(next, content_of(&inject->text), err) && sink_entry_end(next, true, err);
}

static bool
settings_begin(RecoveryInject *inject, const Entry *entry, Error *err)
{
    if (entry->kind != ENTRY_FILE)
        return error_set(err, ERR_UNSUPPORTED,
                         "the server's \"" SETTINGS_NAME "\" is not a regular file");
    keep_entry(inject, entry);
    if (entry->size > HELD_MAX) {
        inject->state = INJECT_APPEND;
        return announce_settings(inject, true, err);
    }
    inject->state = INJECT_HOLD;
    return true;
}

static bool
settings_data(RecoveryInject *inject, Span data, Error *err)
{
    if (data.len > inject->settings.size - inject->received)
        return error_set(err, ERR_FORMAT,
                         "file \"" SETTINGS_NAME "\" gets more than its %llu bytes",
                         (unsigned long long)inject->settings.size);
    inject->received += data.len;
    if (inject->state == INJECT_HOLD)
        return buf_append(&inject->held, data.data, data.len, err);
    return sink_data(inject->sink.next, data, err);
}

static bool
release_held(RecoveryInject *inject, Error *err)
{
    const Buf *held = &inject->held;
    bool own_line = held->len > 0 && held->data[held->len - 1] != '\n';

    return announce_settings(inject, own_line, err) &&
           sink_data(inject->sink.next, content_of(held), err) &&
           complete_settings(inject, own_line, err);
}

/* All before a FLUSH has to go before it. */
static void
owe_flush(RecoveryInject *inject, Lsn mark)
{
    if (!inject->flush_owed || mark > inject->flush_mark)
        inject->flush_mark = mark;
    inject->flush_owed = true;
}

static bool
pay_flush(RecoveryInject *inject, Error *err)
{
    bool owed = inject->flush_owed;

    inject->flush_owed = false;
    return !owed || sink_flush(inject->sink.next, inject->flush_mark, err);
}

static bool
settings_end(RecoveryInject *inject, bool complete, Error *err)
{
    if (!complete)
        return error_set(err, ERR_BUG, "file \"" SETTINGS_NAME "\" was cut short");
    if (inject->received != inject->settings.size)
        return error_set(err, ERR_FORMAT, "file \"" SETTINGS_NAME "\" got %llu of its %llu bytes",
                         (unsigned long long)inject->received,
                         (unsigned long long)inject->settings.size);
    if (inject->state == INJECT_APPEND)
        return complete_settings(inject, true, err);
    return release_held(inject, err) && pay_flush(inject, err);
}

/* ---- files of our own ---- */

static bool
make_file(RecoveryInject *inject, const char *name, Span content, Error *err)
{
    Sink *next = inject->sink.next;
    Entry entry = {.kind = ENTRY_FILE,
                   .path = name,
                   .size = content.len,
                   .mode = inject->file_mode,
                   .mtime = (int64_t)time(NULL)};

    return sink_entry_begin(next, &entry, err) && sink_data(next, content, err) &&
           sink_entry_end(next, true, err);
}

/* At the end of the data directory: what it has not got yet. */
static bool
make_files(RecoveryInject *inject, Error *err)
{
    Span text = content_of(&inject->text);

    if (inject->in_own_file)
        return make_file(inject, OWN_FILE_NAME, text, err);
    return (inject->has_text || make_file(inject, SETTINGS_NAME, text, err)) &&
           make_file(inject, SIGNAL_NAME, (Span){.len = 0}, err);
}

/* The archive at hand is that of the data directory. */
static bool
in_base(const RecoveryInject *inject)
{
    return inject->sink.tablespace == 0;
}

/* Whatever the server has there: a directory would go with all that is in it. */
static bool
is_replaced(const RecoveryInject *inject, const char *path)
{
    return path_holds(inject->in_own_file ? OWN_FILE_NAME : SIGNAL_NAME, path);
}

/* ---- the stage ---- */

static bool
entry_begin(RecoveryInject *inject, const Event *event, Error *err)
{
    const Entry *entry = event->entry;

    if (in_base(inject) && is_replaced(inject, entry->path)) {
        inject->state = INJECT_DROP;
        return true;
    }
    if (in_base(inject) && !inject->in_own_file && strcmp(entry->path, SETTINGS_NAME) == 0)
        return settings_begin(inject, entry, err);
    return sink_forward(&inject->sink, event, err);
}

static bool
take_data(RecoveryInject *inject, const Event *event, Error *err)
{
    if (inject->sink.place != SINK_IN_ENTRY)
        return error_set(err, ERR_BUG, "recovery_inject got an archive without entries");
    switch (inject->state) {
    case INJECT_DROP:
        return true;
    case INJECT_HOLD:
    case INJECT_APPEND:
        return settings_data(inject, event->data, err);
    case INJECT_PASS:
        break;
    }
    return sink_forward(&inject->sink, event, err);
}

static bool
entry_end(RecoveryInject *inject, const Event *event, Error *err)
{
    InjectState ended = inject->state;
    bool ok = true;

    if (ended == INJECT_PASS)
        return sink_forward(&inject->sink, event, err);
    if (ended != INJECT_DROP)
        ok = settings_end(inject, event->complete, err);
    inject->state = INJECT_PASS;
    return ok;
}

static bool
inject_push(Sink *self, const Event *event, Error *err)
{
    RecoveryInject *inject = (RecoveryInject *)self;

    switch (event->kind) {
    case EVENT_ARCHIVE_BEGIN:
        inject->has_text = false;
        break;
    case EVENT_ARCHIVE_END:
        if (in_base(inject) && !make_files(inject, err))
            return false;
        break;
    case EVENT_ENTRY_BEGIN:
        return entry_begin(inject, event, err);
    case EVENT_DATA:
        return take_data(inject, event, err);
    case EVENT_ENTRY_END:
        return entry_end(inject, event, err);
    case EVENT_FLUSH:
        if (inject->state != INJECT_HOLD)
            break;
        owe_flush(inject, event->mark);
        return true;
    }
    return sink_forward(self, event, err);
}

static void
inject_release(Sink *self)
{
    RecoveryInject *inject = (RecoveryInject *)self;

    buf_free(&inject->text);
    buf_free(&inject->held);
}

static const SinkOps inject_ops = {
    .name = "recovery_inject", .push = inject_push, .release = inject_release};

Sink *
recovery_inject_new(Sink *next, const RecoveryConfig *config, Error *err)
{
    RecoveryInject *inject = sink_alloc(sizeof *inject, &inject_ops, next, err);

    if (inject == NULL)
        return NULL;
    inject->in_own_file = config->in_own_file;
    inject->file_mode = config->file_mode;
    if (!buf_append(&inject->text, config->text.data, config->text.len, err)) {
        sink_free(&inject->sink);
        return NULL;
    }
    return &inject->sink;
}
