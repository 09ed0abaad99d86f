#include "support/fake_backup.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/pgtypes.h"
#include "support/recorder.h"

#define LSN_TEXT 20

static const struct {
    int major;
    uint16_t magic;
} wal_magics[] = {
    {10, 0xD097}, {11, 0xD098}, {12, 0xD101}, {13, 0xD106}, {14, 0xD10D},
    {15, 0xD110}, {16, 0xD113}, {17, 0xD116}, {18, 0xD118},
};

static void
must(bool ok, const char *what)
{
    if (ok)
        return;
    (void)fprintf(stderr, "fake backup: %s\n", what);
    abort();
}

static void
append(Buf *buf, const void *data, size_t len)
{
    Error err = ERROR_INIT;

    must(buf_append(buf, data, len, &err), err.message);
}

static void
lsn_text(char text[LSN_TEXT], Lsn lsn)
{
    (void)snprintf(text, LSN_TEXT, LSN_FORMAT, LSN_ARGS(lsn));
}

static bool
typed(const FakeBackup *fake)
{
    return fake->major >= 15;
}

static bool
sends_manifest(const FakeBackup *fake)
{
    return fake->major >= 13 && !fake->no_manifest;
}

/* ---- what is backed up ---- */

static uint16_t
wal_magic(int major)
{
    for (size_t i = 0; i < sizeof wal_magics / sizeof wal_magics[0]; i++) {
        if (wal_magics[i].major == major)
            return wal_magics[i].magic;
    }
    must(false, "no such version");
    return 0;
}

static void
make_wal(FakeBackup *fake)
{
    const WalBuilderConfig config = {.magic = wal_magic(fake->major),
                                     .timeline = 1,
                                     .system_id = FAKE_SYSTEM_ID,
                                     .segment_size = FAKE_SEGMENT_SIZE,
                                     .start = FAKE_START};

    wal_builder_init(&fake->wal, &config);
    (void)wal_builder_record(&fake->wal, 10, 0, 9000);
    (void)wal_builder_record(&fake->wal, 0, WAL_NOOP, 100);
    (void)wal_builder_backup_end(&fake->wal, FAKE_START);
    fake->end = fake->wal.end;
    (void)wal_builder_record(&fake->wal, 0, WAL_NOOP, 60);
}

static FakeArchive *
find_archive(FakeBackup *fake, Oid oid)
{
    for (size_t i = 0; i < fake->count; i++) {
        if (fake->archives[i].oid == oid)
            return &fake->archives[i];
    }
    must(false, "no such archive");
    return NULL;
}

void
fake_backup_member(FakeBackup *fake, Oid oid, const TarMember *member)
{
    tar_add(&find_archive(fake, oid)->tar, member);
}

void
fake_backup_listed(FakeBackup *fake, const char *path, const char *text)
{
    manifest_builder_file(&fake->manifest, path, text, strlen(text), CHECKSUM_CRC32C);
}

void
fake_backup_data(FakeBackup *fake, Oid oid, const char *path, Span data)
{
    char listed[256];

    fake_backup_member(fake, oid, &(TarMember){.name = path, .data = data.data, .size = data.len});
    if (oid == 0)
        (void)snprintf(listed, sizeof listed, "%s", path);
    else
        (void)snprintf(listed, sizeof listed, "pg_tblspc/%u/%s", oid, path);
    manifest_builder_file(&fake->manifest, listed, data.data, data.len, CHECKSUM_CRC32C);
}

void
fake_backup_file(FakeBackup *fake, Oid oid, const char *path, const char *text)
{
    fake_backup_data(fake, oid, path, span_of(text));
}

void
fake_backup_init(FakeBackup *fake, const char *version)
{
    static const char *const directories[] = {
        "base/", "base/1/", "pg_wal/", "./pg_wal/archive_status/", "pg_tblspc/", "global/",
    };

    *fake = (FakeBackup){
        .version = version,
        .major = (int)strtol(version, NULL, 10),
        .count = 1,
        .system_id = FAKE_SYSTEM_ID,
        .mode = "0700",
        .piece = 32768,
    };
    manifest_builder_begin(&fake->manifest, fake->major >= 17 ? 2 : 1, FAKE_SYSTEM_ID);
    make_wal(fake);
    manifest_builder_wal_range(&fake->manifest, 1, FAKE_START, fake->end);
    fake_backup_file(fake, 0, "backup_label", "LABEL: fake\n");
    for (size_t i = 0; i < sizeof directories / sizeof directories[0]; i++)
        fake_backup_member(fake, 0, &(TarMember){TAR_DIRECTORY(directories[i])});
    fake_backup_file(fake, 0, "PG_VERSION", "18\n");
    fake_backup_file(fake, 0, "base/1/1247", "pg_type's rows");
    fake_backup_file(fake, 0, "base/1/1248", "");
    fake_backup_file(fake, 0, "global/pg_control", "control");
}

void
fake_backup_free(FakeBackup *fake)
{
    for (size_t i = 0; i < fake->count; i++)
        buf_free(&fake->archives[i].tar);
    manifest_builder_free(&fake->manifest);
    buf_free(&fake->manifest_text);
    wal_builder_free(&fake->wal);
}

void
fake_backup_tablespace(FakeBackup *fake, Oid oid, const char *location)
{
    char link[32];

    must(fake->count < FAKE_ARCHIVES_MAX, "too many archives");
    fake->archives[fake->count] = fake->archives[fake->count - 1];
    fake->archives[fake->count - 1] = (FakeArchive){.oid = oid, .location = location};
    fake->count++;
    fake_backup_member(fake, oid, &(TarMember){TAR_DIRECTORY("PG_18_202506291/")});
    fake_backup_file(fake, oid, "PG_18_202506291/1234", "far away");
    if (location[0] == '/') {
        (void)snprintf(link, sizeof link, "pg_tblspc/%u", oid);
        fake_backup_member(fake, 0, &(TarMember){TAR_SYMLINK(link, location)});
    }
}

Buf *
fake_backup_manifest(FakeBackup *fake)
{
    if (fake->manifest_text.len == 0)
        manifest_builder_finish(&fake->manifest, &fake->manifest_text);
    return &fake->manifest_text;
}

/* ---- what is sent of it ---- */

Buf
fake_backup_archive_name(const FakeBackup *fake, size_t index)
{
    const char *suffix = compression_suffix(fake->compress);
    Oid oid = fake->archives[index].oid;
    Error err = ERROR_INIT;
    Buf name = BUF_INIT;

    must(oid == 0 ? buf_printf(&name, &err, "base.tar%s", suffix)
                  : buf_printf(&name, &err, "%u.tar%s", oid, suffix),
         err.message);
    return name;
}

static Buf
compressed(const Buf *tar, CompressionMethod method)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Compression compression;
    Sink *sink;

    must(compression_parse(method, NULL, &compression, &err), err.message);
    sink = compress_new(recorder_new(&recording, &err), &compression, &err);
    must(sink != NULL, err.message);
    must(sink_archive_begin(sink, &(Archive){.name = "x.tar"}, &err) &&
             sink_data(sink, tar_span(tar), &err) && sink_archive_end(sink, &err) &&
             sink_finish(sink, &err),
         err.message);
    sink_free(sink);
    buf_free(&recording.text);
    return recording.bytes;
}

/* Old servers leave out the end. */
static Buf
whole_tar(const FakeBackup *fake, size_t index)
{
    const Buf *members = &fake->archives[index].tar;
    Buf tar = BUF_INIT;

    append(&tar, members->data, members->len);
    if (typed(fake))
        tar_end(&tar);
    return tar;
}

Buf
fake_backup_archive(const FakeBackup *fake, size_t index)
{
    Buf tar = whole_tar(fake, index);
    Buf packed;

    if (fake->compress == COMPRESSION_NONE)
        return tar;
    packed = compressed(&tar, fake->compress);
    buf_free(&tar);
    return packed;
}

/* ---- the first connection ---- */

static void
script_identify(const FakeBackup *fake, WireScript *script)
{
    char id[24];

    (void)snprintf(id, sizeof id, "%llu", (unsigned long long)fake->system_id);
    wire_answer(script, "IDENTIFY_SYSTEM", ROW(id, "1", "0/2000000", NULL));
}

void
fake_script_learn(const FakeBackup *fake, WireScript *script)
{
    if (fake->major >= 11)
        wire_answer(script, "SHOW data_directory_mode", ROW(fake->mode));
    wire_answer(script, "SHOW wal_segment_size", ROW("1MB"));
    script_identify(fake, script);
    if (fake->major >= 11 && !fake->no_look) {
        wire_answer(script, "SHOW data_checksums", ROW(fake->checksums ? "on" : "off"));
        wire_answer(script, "SHOW block_size", ROW("8192"));
        wire_answer(script, "SHOW segment_size", ROW("1GB"));
    }
}

void
fake_script_upload(WireScript *script)
{
    Buf *out;

    wire_expect(script, "UPLOAD_MANIFEST");
    wire_copy_in(wire_send(script));
    wire_step(script, WIRE_COPY_DONE);
    out = wire_send(script);
    wire_complete(out, "UPLOAD_MANIFEST");
    wire_ready(out);
}

Buf *
fake_script_begin(const FakeBackup *fake, WireScript *script)
{
    char start[LSN_TEXT];
    Buf *out;

    lsn_text(start, FAKE_START);
    wire_expect(script, "BASE_BACKUP");
    out = wire_send(script);
    wire_one_row(out, ROW(start, "1"));
    wire_row_description(out, 3);
    for (size_t i = 0; i < fake->count; i++) {
        const FakeArchive *archive = &fake->archives[i];
        char oid[16];
        const char *const values[] = {archive->oid == 0 ? NULL : oid, archive->location,
                                      fake->size};

        (void)snprintf(oid, sizeof oid, "%u", archive->oid);
        wire_row(out, 3, values);
    }
    wire_complete(out, "SELECT");
    return out;
}

void
fake_put_new_archive(Buf *out, const char *name, const char *location)
{
    Buf message = BUF_INIT;

    append(&message, "n", 1);
    append(&message, name, strlen(name) + 1);
    append(&message, location, strlen(location) + 1);
    wire_copy_data(out, message.data, message.len);
    buf_free(&message);
}

void
fake_put_data(Buf *out, Span data)
{
    Buf message = BUF_INIT;

    append(&message, "d", 1);
    append(&message, data.data, data.len);
    wire_copy_data(out, message.data, message.len);
    buf_free(&message);
}

void
fake_put_manifest_begins(Buf *out)
{
    wire_copy_data(out, "m", 1);
}

void
fake_put_progress(Buf *out, uint64_t done)
{
    uint8_t message[9] = {'p'};

    put_be64(message + 1, done);
    wire_copy_data(out, message, sizeof message);
}

/* In messages of at most a piece. */
static void
put_pieces(const FakeBackup *fake, Buf *out, Span data)
{
    while (data.len > 0) {
        Span piece = {.data = data.data, .len = data.len < fake->piece ? data.len : fake->piece};

        if (typed(fake))
            fake_put_data(out, piece);
        else
            wire_copy_data(out, piece.data, piece.len);
        data.data += piece.len;
        data.len -= piece.len;
    }
}

void
fake_put_copy(const FakeBackup *fake, Buf *out)
{
    if (typed(fake))
        wire_copy_out(out);
}

void
fake_put_copy_end(const FakeBackup *fake, Buf *out)
{
    if (typed(fake))
        wire_copy_done(out);
}

/* How much of its files the server has read when it has sent this archive. */
static uint64_t
done_with(const FakeBackup *fake, size_t index)
{
    uint64_t done = 0;

    for (size_t i = 0; i <= index; i++) {
        Buf tar = whole_tar(fake, i);

        done += tar.len;
        buf_free(&tar);
    }
    return done;
}

static void
put_typed_archive(const FakeBackup *fake, Buf *out, size_t index)
{
    const char *location = fake->archives[index].location;
    Buf name = fake_backup_archive_name(fake, index);
    Buf content = fake_backup_archive(fake, index);

    fake_put_new_archive(out, buf_text(&name), location == NULL ? "" : location);
    if (!fake->elsewhere)
        put_pieces(fake, out, tar_span(&content));
    fake_put_progress(out, done_with(fake, index));
    buf_free(&content);
    buf_free(&name);
}

void
fake_put_archive(const FakeBackup *fake, Buf *out, size_t index)
{
    Buf content;

    if (typed(fake)) {
        put_typed_archive(fake, out, index);
        return;
    }
    content = fake_backup_archive(fake, index);
    wire_copy_out(out);
    put_pieces(fake, out, tar_span(&content));
    wire_copy_done(out);
    buf_free(&content);
}

void
fake_put_manifest(FakeBackup *fake, Buf *out)
{
    const Buf *text = fake_backup_manifest(fake);

    if (typed(fake))
        fake_put_manifest_begins(out);
    else
        wire_copy_out(out);
    if (!fake->elsewhere)
        put_pieces(fake, out, (Span){.data = text->data, .len = text->len});
    if (!typed(fake))
        wire_copy_done(out);
}

void
fake_put_end_position(const FakeBackup *fake, Buf *out)
{
    char end[LSN_TEXT];

    lsn_text(end, fake->end);
    wire_one_row(out, ROW(end, "1"));
}

void
fake_put_end(const FakeBackup *fake, Buf *out)
{
    fake_put_end_position(fake, out);
    if (fake->damaged)
        wire_error(out, "ERROR", "XX001", "checksum verification failure during base backup");
    else
        wire_complete(out, "BASE_BACKUP");
    wire_ready(out);
}

void
fake_put_contents(FakeBackup *fake, Buf *out)
{
    fake_put_copy(fake, out);
    for (size_t i = 0; i < fake->count; i++)
        fake_put_archive(fake, out, i);
    if (sends_manifest(fake))
        fake_put_manifest(fake, out);
    fake_put_copy_end(fake, out);
}

void
fake_script_backup(FakeBackup *fake, WireScript *script)
{
    Buf *out;

    fake_script_learn(fake, script);
    if (fake->uploads)
        fake_script_upload(script);
    out = fake_script_begin(fake, script);
    fake_put_contents(fake, out);
    fake_put_end(fake, out);
}

/* ---- the second connection ---- */

void
fake_script_wal_prepare(const FakeBackup *fake, WireScript *script, bool slot)
{
    script_identify(fake, script);
    if (slot)
        wire_answer(script, "CREATE_REPLICATION_SLOT", ROW("slot", "0/0", NULL, NULL));
}

Buf *
fake_script_wal_start(WireScript *script)
{
    return wire_stream(script, "START_REPLICATION");
}

void
fake_put_wal(const FakeBackup *fake, Buf *out, Lsn from, Lsn to)
{
    Span wal = wal_builder_span(&fake->wal, from, to);
    uint8_t head[25] = {'w'};
    Buf message = BUF_INIT;

    put_be64(head + 1, from);
    put_be64(head + 9, to);
    append(&message, head, sizeof head);
    append(&message, wal.data, wal.len);
    wire_copy_data(out, message.data, message.len);
    buf_free(&message);
}

void
fake_script_wal(FakeBackup *fake, WireScript *script)
{
    fake_script_wal_prepare(fake, script, true);
    fake_put_wal(fake, fake_script_wal_start(script), FAKE_SEGMENT, fake->wal.end);
    wire_stream_end(script);
}

/* ---- the third connection ---- */

void
fake_script_drop_slot(WireScript *script)
{
    Buf *out;

    wire_expect(script, "DROP_REPLICATION_SLOT");
    out = wire_send(script);
    wire_complete(out, "DROP_REPLICATION_SLOT");
    wire_ready(out);
}
