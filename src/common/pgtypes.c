#include "common/pgtypes.h"

#include "common/bytes.h"

/* One to eight hex digits; moves *text behind them. */
static bool
hex32_take(const char **text, uint32_t *ret_value)
{
    uint32_t value = 0;
    int digits = 0;

    while (hex_digit(**text) >= 0) {
        if (++digits > 8)
            return false;
        value = value << 4 | (uint32_t)hex_digit(**text);
        (*text)++;
    }
    *ret_value = value;
    return digits > 0;
}

bool
lsn_parse(const char *text, Lsn *ret_lsn)
{
    uint32_t high;
    uint32_t low;

    if (!hex32_take(&text, &high) || *text++ != '/' || !hex32_take(&text, &low) || *text != '\0')
        return false;
    *ret_lsn = (Lsn)high << 32 | low;
    return true;
}

bool
u64_parse(const char *text, uint64_t *ret_value)
{
    uint64_t value = 0;

    if (*text == '\0')
        return false;
    for (; *text != '\0'; text++) {
        uint64_t digit = (uint64_t)(*text - '0');

        if (*text < '0' || *text > '9' || value > (UINT64_MAX - digit) / 10)
            return false;
        value = value * 10 + digit;
    }
    *ret_value = value;
    return true;
}

bool
u32_parse(const char *text, uint32_t *ret_value)
{
    uint64_t value;

    if (!u64_parse(text, &value) || value > UINT32_MAX)
        return false;
    *ret_value = (uint32_t)value;
    return true;
}
