/*
 * Deflate streams (RFC 1951) that others can follow.
 *
 * A complete stream ends somewhere within a byte, with a block that says it is the last. To follow
 * it, that flag must go and the end must come to a byte's boundary: an empty stored block does
 * that. Where the flag is, and where the stream ends, only those know who have read all of it: so
 * the stream is walked, like a decompressor would but without output. All that matters of a symbol
 * is how many bits it takes; so one look at a table passes over all literals that its index holds,
 * and over the length behind them.
 *
 * Bits come from a 64-bit word that is refilled by eight bytes at a time. Behind the end they are
 * zeros, of which no more than a word's worth is given: whoever takes them is told at the next
 * refill, or when the stream is over.
 */
#include <endian.h>
#include <string.h>

#include "stream/internal.h"

#define CODE_LENGTH_MAX 15
#define TABLE_BITS      11
#define TABLE_SIZE      ((size_t)1 << TABLE_BITS)

/* Symbols: of literals and lengths, of distances, and of the lengths of the codes of both. */
#define LITERAL_SYMBOLS  288
#define LITERAL_VALID    286
#define DISTANCE_SYMBOLS 32
#define DISTANCE_VALID   30
#define LENGTH_SYMBOLS   19
#define END_OF_BLOCK     256

/* ---- bits ---- */

typedef struct Bits {
    const uint8_t *start;
    const uint8_t *next;
    const uint8_t *end;
    uint64_t word;   /* the next bits, from the lowest on */
    unsigned have;   /* so many; what is above them is right, or zero */
    unsigned beyond; /* bytes that were not there */
} Bits;

/* The most that a refill can be relied on to leave: a length and a distance, each with its extra
 * bits, and a table's worth of literals before them. */
#define BITS_REFILLED 56

static bool
bits_refill_slowly(Bits *bits)
{
    while (bits->have < BITS_REFILLED) {
        if (bits->next < bits->end)
            bits->word |= (uint64_t)*bits->next++ << bits->have;
        else if (++bits->beyond > sizeof bits->word)
            return false;
        bits->have += 8;
    }
    return true;
}

/* False: more was taken than there is. */
static inline bool
bits_refill(Bits *bits)
{
    uint64_t word;

    if ((size_t)(bits->end - bits->next) < sizeof word)
        return bits_refill_slowly(bits);
    memcpy(&word, bits->next, sizeof word);
    bits->word |= le64toh(word) << bits->have;
    bits->next += (63 - bits->have) >> 3;
    bits->have |= BITS_REFILLED;
    return true;
}

static inline void
bits_skip(Bits *bits, unsigned count)
{
    bits->word >>= count;
    bits->have -= count;
}

static unsigned
bits_take(Bits *bits, unsigned count)
{
    unsigned value = (unsigned)(bits->word & ((1U << count) - 1));

    bits_skip(bits, count);
    return value;
}

/* Of the next bit, in the stream. */
static size_t
bits_position(const Bits *bits)
{
    return ((size_t)(bits->next - bits->start) + bits->beyond) * 8 - bits->have;
}

static size_t
bits_size(const Bits *bits)
{
    return (size_t)(bits->end - bits->start) * 8;
}

static void
bits_go_to(Bits *bits, const uint8_t *byte)
{
    bits->next = byte;
    bits->word = 0;
    bits->have = 0;
    bits->beyond = 0;
}

static bool
bad_stream(const Bits *bits, const char *what, Error *err)
{
    return error_set(err, ERR_FORMAT, "deflate stream of %zu bytes: %s before bit %zu",
                     bits_size(bits) / 8, what, bits_position(bits));
}

static bool
cut_short(const Bits *bits, Error *err)
{
    return error_set(err, ERR_FORMAT, "deflate stream of %zu bytes is cut short",
                     bits_size(bits) / 8);
}

/* ---- codes ---- */

/* A symbol and the length of its code; 0 is none. */
typedef uint16_t CodeEntry;

#define ENTRY_OF(symbol, length) ((CodeEntry)((unsigned)(symbol) << 4 | (length)))
#define ENTRY_SYMBOL(entry)      ((unsigned)(entry) >> 4)
#define ENTRY_LENGTH(entry)      ((unsigned)(entry)&15U)

typedef struct Code {
    uint16_t counts[CODE_LENGTH_MAX + 1]; /* codes of each length */
    uint16_t symbols[LITERAL_SYMBOLS];    /* in the order of their codes */
    CodeEntry table[TABLE_SIZE];          /* by the next bits; none: its code is longer, or there
                                           * is none */
} Code;

/* What the codes leave unused, as a share of all there are: 0 is nothing, less than that is too
 * much. */
static int
code_left(const Code *code)
{
    int left = 1;

    for (unsigned length = 1; length <= CODE_LENGTH_MAX && left >= 0; length++)
        left = 2 * left - code->counts[length];
    return left;
}

/* There is no code, or one of a single bit: as much may be left unused. */
static bool
code_is_single(const Code *code)
{
    for (unsigned length = 2; length <= CODE_LENGTH_MAX; length++) {
        if (code->counts[length] > 0)
            return false;
    }
    return code->counts[1] <= 1;
}

static void
code_sort(Code *code, const uint8_t *lengths, size_t count)
{
    uint16_t at[CODE_LENGTH_MAX + 1];

    at[1] = 0;
    for (unsigned length = 1; length < CODE_LENGTH_MAX; length++)
        at[length + 1] = (uint16_t)(at[length] + code->counts[length]);
    for (size_t symbol = 0; symbol < count; symbol++) {
        if (lengths[symbol] > 0)
            code->symbols[at[lengths[symbol]]++] = (uint16_t)symbol;
    }
}

/* A code's first bit is its highest, and the stream's lowest: what follows `code` with its bits the
 * other way round. */
static unsigned
code_after(unsigned code, unsigned length)
{
    unsigned bit = 1U << (length - 1);

    while ((code & bit) != 0) {
        code ^= bit;
        bit >>= 1;
    }
    return code | bit;
}

static void
code_fill_table(Code *code)
{
    const uint16_t *symbol = code->symbols;
    unsigned bits = 0;

    memset(code->table, 0, sizeof code->table);
    for (unsigned length = 1; length <= TABLE_BITS; length++) {
        for (unsigned i = 0; i < code->counts[length]; i++, symbol++) {
            for (size_t at = bits; at < TABLE_SIZE; at += (size_t)1 << length)
                code->table[at] = ENTRY_OF(*symbol, length);
            bits = code_after(bits, length);
        }
    }
}

static bool
code_make(Code *code, const uint8_t *lengths, size_t count)
{
    memset(code->counts, 0, sizeof code->counts);
    for (size_t symbol = 0; symbol < count; symbol++)
        code->counts[lengths[symbol]]++;
    code->counts[0] = 0;
    if (code_left(code) != 0 && !code_is_single(code))
        return false;
    code_sort(code, lengths, count);
    code_fill_table(code);
    return true;
}

/* A code of any length, bit by bit. */
static CodeEntry
code_search(const Code *code, uint64_t word)
{
    const uint16_t *symbols = code->symbols;
    unsigned first = 0; /* code of this length */
    unsigned bits = 0;

    for (unsigned length = 1; length <= CODE_LENGTH_MAX; length++) {
        unsigned count = code->counts[length];

        bits |= (unsigned)(word & 1);
        word >>= 1;
        if (bits < first + count)
            return ENTRY_OF(symbols[bits - first], length);
        symbols += count;
        first = (first + count) << 1;
        bits <<= 1;
    }
    return 0;
}

/* ---- steps: what a look at the next bits passes over ---- */

/* So many bits, and what comes then. */
typedef uint16_t Step;

typedef enum StepKind {
    STEP_NONE,     /* the table does not say */
    STEP_ON,       /* another one */
    STEP_DISTANCE, /* of the length that was passed */
    STEP_END       /* of the block */
} StepKind;

#define STEP_OF(kind, bits) ((Step)((unsigned)(kind) << 8 | (bits)))
#define STEP_KIND(step)     ((step) >> 8)
#define STEP_BITS(step)     ((step)&63U)

typedef struct Steps {
    Code code;
    Step table[TABLE_SIZE];
} Steps;

static unsigned
length_extra_bits(unsigned symbol)
{
    return symbol < 265 || symbol == 285 ? 0 : (symbol - 261) / 4;
}

static unsigned
distance_extra_bits(unsigned symbol)
{
    return symbol < 4 ? 0 : (symbol - 2) / 2;
}

static Step
step_of_literal(CodeEntry entry)
{
    unsigned symbol = ENTRY_SYMBOL(entry);
    unsigned length = ENTRY_LENGTH(entry);

    if (entry == 0 || symbol >= LITERAL_VALID)
        return STEP_OF(STEP_NONE, 0);
    if (symbol < END_OF_BLOCK)
        return STEP_OF(STEP_ON, length);
    if (symbol == END_OF_BLOCK)
        return STEP_OF(STEP_END, length);
    return STEP_OF(STEP_DISTANCE, length + length_extra_bits(symbol));
}

static Step
step_of_distance(CodeEntry entry)
{
    unsigned symbol = ENTRY_SYMBOL(entry);

    if (entry == 0 || symbol >= DISTANCE_VALID)
        return STEP_OF(STEP_NONE, 0);
    return STEP_OF(STEP_ON, ENTRY_LENGTH(entry) + distance_extra_bits(symbol));
}

/* As many symbols as the bits of `index` are sure to hold. */
static Step
step_of_literals(const Code *code, size_t index)
{
    unsigned passed = 0;

    for (;;) {
        CodeEntry entry = code->table[index >> passed];
        Step step = step_of_literal(entry);

        if (STEP_KIND(step) == STEP_NONE || passed + ENTRY_LENGTH(entry) > TABLE_BITS)
            return passed == 0 ? step : STEP_OF(STEP_ON, passed);
        if (STEP_KIND(step) != STEP_ON)
            return (Step)(step + passed);
        passed += ENTRY_LENGTH(entry);
    }
}

static bool
literals_make(Steps *literals, const uint8_t *lengths, size_t count)
{
    if (!code_make(&literals->code, lengths, count))
        return false;
    for (size_t i = 0; i < TABLE_SIZE; i++)
        literals->table[i] = step_of_literals(&literals->code, i);
    return true;
}

static bool
distances_make(Steps *distances, const uint8_t *lengths, size_t count)
{
    if (!code_make(&distances->code, lengths, count))
        return false;
    for (size_t i = 0; i < TABLE_SIZE; i++)
        distances->table[i] = step_of_distance(distances->code.table[i]);
    return true;
}

/* ---- blocks ---- */

typedef struct Walk {
    Bits bits;
    Steps literals;
    Steps distances;
} Walk;

static inline Step
next_step(const Steps *steps, const Bits *bits, Step (*step_of)(CodeEntry entry))
{
    Step step = steps->table[bits->word & (TABLE_SIZE - 1)];

    if (STEP_KIND(step) == STEP_NONE)
        step = step_of(code_search(&steps->code, bits->word));
    return step;
}

static bool
walk_symbols(Walk *walk, Error *err)
{
    Bits bits = walk->bits; /* lives in registers */
    Step step = STEP_OF(STEP_ON, 0);

    while (bits_refill(&bits)) {
        step = next_step(&walk->literals, &bits, step_of_literal);
        bits_skip(&bits, STEP_BITS(step));
        if (STEP_KIND(step) == STEP_DISTANCE) {
            step = next_step(&walk->distances, &bits, step_of_distance);
            bits_skip(&bits, STEP_BITS(step));
        }
        if (STEP_KIND(step) != STEP_ON)
            break;
    }
    walk->bits = bits;
    if (STEP_KIND(step) == STEP_ON)
        return cut_short(&bits, err);
    return STEP_KIND(step) == STEP_END || bad_stream(&bits, "a symbol that does not exist", err);
}

static bool
walk_fixed(Walk *walk, Error *err)
{
    uint8_t lengths[LITERAL_SYMBOLS];

    memset(lengths, 8, 144);
    memset(lengths + 144, 9, 256 - 144);
    memset(lengths + 256, 7, 280 - 256);
    memset(lengths + 280, 8, LITERAL_SYMBOLS - 280);
    if (!literals_make(&walk->literals, lengths, LITERAL_SYMBOLS))
        return bad_stream(&walk->bits, "no fixed code", err);
    memset(lengths, 5, DISTANCE_SYMBOLS);
    if (!distances_make(&walk->distances, lengths, DISTANCE_SYMBOLS))
        return bad_stream(&walk->bits, "no fixed code", err);
    return walk_symbols(walk, err);
}

/* How a symbol of the code of lengths is repeated. */
typedef struct Repeat {
    unsigned base;
    unsigned extra_bits;
} Repeat;

static Repeat
repeat_of(unsigned symbol)
{
    static const Repeat once = {1, 0};
    static const Repeat repeats[] = {{3, 2}, {3, 3}, {11, 7}}; /* of 16 to 18 */

    return symbol < 16 ? once : repeats[symbol - 16];
}

/* The lengths of the codes of a dynamic block, which are themselves coded by `code`. */
static bool
take_lengths(Bits *bits, const Code *code, uint8_t *lengths, size_t count, Error *err)
{
    size_t done = 0;

    while (done < count) {
        CodeEntry entry;
        unsigned symbol;
        Repeat repeat;
        size_t times;

        if (!bits_refill(bits))
            return cut_short(bits, err);
        entry = code->table[bits->word & (TABLE_SIZE - 1)];
        if (entry == 0)
            return bad_stream(bits, "a code length that does not exist", err);
        symbol = ENTRY_SYMBOL(entry);
        repeat = repeat_of(symbol);
        bits_skip(bits, ENTRY_LENGTH(entry));
        times = repeat.base + bits_take(bits, repeat.extra_bits);
        if (times > count - done || (symbol == 16 && done == 0))
            return bad_stream(bits, "code lengths that are repeated too often", err);
        if (symbol < 16)
            lengths[done] = (uint8_t)symbol;
        else
            memset(lengths + done, symbol == 16 ? lengths[done - 1] : 0, times);
        done += times;
    }
    return true;
}

/* The code of the lengths, into whichever memory is not needed yet. */
static bool
take_length_code(Bits *bits, Code *code, size_t count, Error *err)
{
    static const uint8_t order[LENGTH_SYMBOLS] = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                                  11, 4,  12, 3, 13, 2, 14, 1, 15};
    uint8_t lengths[LENGTH_SYMBOLS] = {0};

    for (size_t i = 0; i < count; i++) {
        if (!bits_refill(bits))
            return cut_short(bits, err);
        lengths[order[i]] = (uint8_t)bits_take(bits, 3);
    }
    return (code_make(code, lengths, LENGTH_SYMBOLS) && code_left(code) == 0) ||
           bad_stream(bits, "code lengths that make no code", err);
}

static bool
walk_dynamic(Walk *walk, Error *err)
{
    Bits *bits = &walk->bits;
    uint8_t lengths[LITERAL_SYMBOLS + DISTANCE_SYMBOLS] = {0};
    size_t literals = 257 + bits_take(bits, 5);
    size_t distances = 1 + bits_take(bits, 5);
    size_t count = 4 + bits_take(bits, 4);

    if (literals > LITERAL_VALID || distances > DISTANCE_VALID)
        return bad_stream(bits, "more codes than there are symbols", err);
    if (!take_length_code(bits, &walk->distances.code, count, err) ||
        !take_lengths(bits, &walk->distances.code, lengths, literals + distances, err))
        return false;
    if (lengths[END_OF_BLOCK] == 0)
        return bad_stream(bits, "a block that cannot end", err);
    if (!literals_make(&walk->literals, lengths, literals) ||
        !distances_make(&walk->distances, lengths + literals, distances))
        return bad_stream(bits, "code lengths that make no code", err);
    return walk_symbols(walk, err);
}

/* To the byte's boundary, a length and its complement, and so many bytes. */
static bool
walk_stored(Walk *walk, Error *err)
{
    Bits *bits = &walk->bits;
    size_t position = (bits_position(bits) + 7) / 8;
    size_t size = bits_size(bits) / 8;
    const uint8_t *at = bits->start + position;
    size_t len;

    if (position > size || size - position < 4)
        return cut_short(bits, err);
    len = get_le16(at);
    if ((len ^ get_le16(at + 2)) != 0xFFFF)
        return bad_stream(bits, "a stored block of no length", err);
    if (size - position - 4 < len)
        return cut_short(bits, err);
    bits_go_to(bits, at + 4 + len);
    return true;
}

static bool
walk_block(Walk *walk, bool *ret_last, Error *err)
{
    Bits *bits = &walk->bits;
    bool last;
    bool ok;

    if (!bits_refill(bits))
        return cut_short(bits, err);
    last = bits_take(bits, 1) != 0;
    switch (bits_take(bits, 2)) {
    case 0:
        ok = walk_stored(walk, err);
        break;
    case 1:
        ok = walk_fixed(walk, err);
        break;
    case 2:
        ok = walk_dynamic(walk, err);
        break;
    default:
        return bad_stream(bits, "a block of unknown type", err);
    }
    if (!ok)
        return false;
    *ret_last = last;
    return bits_position(bits) <= bits_size(bits) || cut_short(bits, err);
}

/* Positions, in bits, of the header of the last block and of the end. */
static bool
walk_stream(Span stream, size_t *ret_last_block, size_t *ret_end, Error *err)
{
    Walk walk;
    size_t block;
    bool last = false;

    walk.bits = (Bits){
        .start = stream.data, .next = stream.data, .end = stream.data + stream.len, .word = 0};
    do {
        block = bits_position(&walk.bits);
        if (!walk_block(&walk, &last, err))
            return false;
    } while (!last);
    *ret_last_block = block;
    *ret_end = bits_position(&walk.bits);
    return true;
}

/* ---- opening the end ---- */

bool
deflate_open_end(Buf *stream, Error *err)
{
    static const uint8_t stored_empty[] = {0x00, 0x00, 0xFF, 0xFF};
    const Span whole = {.data = stream->data, .len = stream->len};
    size_t block;
    size_t end;

    if (!walk_stream(whole, &block, &end, err))
        return false;
    if (stream->len != (end + 7) / 8)
        return error_set(err, ERR_FORMAT, "deflate stream of %zu bytes ends after bit %zu",
                         stream->len, end);
    if (!buf_reserve(stream, DEFLATE_OPEN_MAX, err))
        return false;
    stream->data[block / 8] &= (uint8_t) ~(1U << block % 8);
    if (end % 8 != 0) /* what pads the byte is to be zeros */
        stream->data[end / 8] &= (uint8_t)((1U << end % 8) - 1);
    if (end % 8 == 0 || end % 8 > 5)
        stream->data[stream->len++] = 0;
    memcpy(stream->data + stream->len, stored_empty, sizeof stored_empty);
    stream->len += sizeof stored_empty;
    return true;
}
