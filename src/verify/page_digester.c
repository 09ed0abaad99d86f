#include "verify/internal.h"

void
page_digester_init(PageDigester *digester, PageDigestWriter *writer)
{
    *digester = (PageDigester){.writer = writer, .page_size = page_digest_writer_page_size(writer)};
    crc32c_join_init(&digester->join, digester->page_size);
}

bool
page_digester_begin(PageDigester *digester, const char *path, uint64_t size, Error *err)
{
    const uint32_t page_size = digester->page_size;

    digester->due = size / page_size + (size % page_size != 0);
    digester->file_crc = 0;
    digester->page_crc = 0;
    digester->have = 0;
    return page_digest_writer_begin(digester->writer, path, size, err);
}

static bool
end_page(PageDigester *digester, Error *err)
{
    const uint32_t crc = digester->page_crc;

    digester->file_crc = digester->have == digester->page_size
                             ? crc32c_join(&digester->join, digester->file_crc, crc)
                             : crc32c_combine(digester->file_crc, crc, digester->have);
    digester->page_crc = 0;
    digester->have = 0;
    digester->due--;
    return page_digest_writer_add(digester->writer, crc, err);
}

bool
page_digester_feed(PageDigester *digester, Span data, Error *err)
{
    while (data.len > 0) {
        size_t want = digester->page_size - digester->have;
        size_t piece = data.len < want ? data.len : want;

        digester->page_crc = crc32c(digester->page_crc, data.data, piece);
        digester->have += piece;
        data.data += piece;
        data.len -= piece;
        if (piece == want && !end_page(digester, err))
            return false;
    }
    return true;
}

bool
page_digester_end(PageDigester *digester, uint32_t *ret_crc, Error *err)
{
    if (digester->have > 0 && !end_page(digester, err))
        return false;
    /* Of a file that was cut short: what was announced must follow, true or not. */
    for (; digester->due > 0; digester->due--) {
        if (!page_digest_writer_add(digester->writer, 0, err))
            return false;
    }
    *ret_crc = digester->file_crc;
    return true;
}
