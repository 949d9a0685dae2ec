/* Where ids lie: their hashes are looked for among sorted ones, and their bytes compared.
 *
 * Hashes are spread evenly, so that each tells about where it lies. What is read from memory, of many ids, is asked for
 * some time before: a store's index is far larger than a cache, and reads that follow one another would take longer
 * than all the rest.
 */

#include <stdint.h>
#include <string.h>

#define BATCH 128 /* ids that are looked for together */
#define ROUNDS 2  /* corrections of a guess, by how far the hash found there is from the one that was meant */

typedef struct {
    int64_t documents;
    const uint64_t *hashes;      /* [documents], rising */
    const int64_t *id_starts;    /* [documents + 1] */
    const unsigned char *ids;    /* their bytes, one behind the other */
    const uint32_t *segments, *ordinals; /* [documents] each */
    const uint64_t *row_starts;
    const uint32_t *row_counts;
    uint64_t (*hash)(const void *, size_t);
} Index;

/* [asked] each; zeros where an id was not found */
typedef struct {
    uint8_t *found;
    int64_t *segments, *ordinals, *row_starts, *row_counts;
} Found;

typedef struct {
    const unsigned char *bytes;
    int64_t length, place;
    uint64_t hash;
} Key;

int64_t native_version(void) { return 3; }

static int64_t within(int64_t place, int64_t size) { return place < 0 ? 0 : place >= size ? size - 1 : place; }

/* How many entries hashes that are `distance` apart are from one another, on average. */
static int64_t entries(uint64_t distance, int64_t size) { return (int64_t)(distance * 0x1p-64 * (double)size); }

/* The first entry that is not less than `hash`, which lies near `guess`. */
static int64_t first_of(const uint64_t *hashes, int64_t size, uint64_t hash, int64_t guess) {
    int64_t low = guess, high = guess; /* all below `low` are less, those from `high` on are not */
    if (hashes[guess] < hash) {
        for (int64_t step = 4; high < size && hashes[high] < hash; step *= 2) low = high + 1, high += step;
        if (high > size) high = size;
    } else {
        for (int64_t step = 4; low > 0 && hashes[low - 1] >= hash; step *= 2) high = low - 1, low = high > step ? high - step : 0;
    }
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (hashes[middle] < hash)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int same(const Index *x, const Key *key) {
    int64_t start = x->id_starts[key->place];
    return x->id_starts[key->place + 1] - start == key->length && !memcmp(x->ids + start, key->bytes, key->length);
}

static void look(const Index *x, Key *keys, int64_t count, const Found *out) {
    for (int64_t i = 0; i < count; i++) {
        keys[i].hash = x->hash(keys[i].bytes, keys[i].length);
        keys[i].place = within(entries(keys[i].hash, x->documents), x->documents);
        __builtin_prefetch(x->hashes + keys[i].place);
    }
    for (int round = 0; round < ROUNDS; round++)
        for (int64_t i = 0; i < count; i++) {
            uint64_t hash = keys[i].hash, there = x->hashes[keys[i].place];
            int64_t off = hash > there ? entries(hash - there, x->documents) : -entries(there - hash, x->documents);
            keys[i].place = within(keys[i].place + off, x->documents);
            __builtin_prefetch(x->hashes + keys[i].place);
        }
    for (int64_t i = 0; i < count; i++) {
        int64_t place = keys[i].place = first_of(x->hashes, x->documents, keys[i].hash, keys[i].place);
        if (place == x->documents) continue;
        __builtin_prefetch(x->id_starts + place);
        __builtin_prefetch(x->segments + place);
        __builtin_prefetch(x->ordinals + place);
        __builtin_prefetch(x->row_starts + place);
        __builtin_prefetch(x->row_counts + place);
    }
    for (int64_t i = 0; i < count; i++)
        if (keys[i].place < x->documents) __builtin_prefetch(x->ids + x->id_starts[keys[i].place]);
    for (int64_t i = 0; i < count; i++) {
        Key *key = keys + i;
        /* more than one step only where two ids share a hash */
        while (key->place < x->documents && x->hashes[key->place] == key->hash && !same(x, key)) key->place++;
        int found = key->place < x->documents && x->hashes[key->place] == key->hash;
        out->found[i] = found;
        out->segments[i] = found ? x->segments[key->place] : 0;
        out->ordinals[i] = found ? x->ordinals[key->place] : 0;
        out->row_starts[i] = found ? (int64_t)x->row_starts[key->place] : 0;
        out->row_counts[i] = found ? x->row_counts[key->place] : 0;
    }
}

/* Look for the ids in `asked` [size] bytes, each ended by a zero. The number of these; -1 where it is not `count`. */
int64_t ids_lookup(const Index *index, const unsigned char *asked, int64_t size, int64_t count, const Found *out) {
    Key keys[BATCH];
    const unsigned char *end = asked + size;
    int64_t done = 0;
    while (asked < end && done < count) {
        int64_t some = 0;
        for (; some < BATCH && done + some < count && asked < end; some++) {
            const unsigned char *zero = memchr(asked, 0, end - asked);
            if (!zero) return -1;
            keys[some] = (Key){asked, zero - asked, 0, 0};
            asked = zero + 1;
        }
        Found part = {out->found + done, out->segments + done, out->ordinals + done, out->row_starts + done,
                      out->row_counts + done};
        if (index->documents) look(index, keys, some, &part);
        done += some;
    }
    return asked == end && done == count ? done : -1;
}
