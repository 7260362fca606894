/* A subscriber in C: packets of any device, by ZeroMQ and the wire format of docs/wire-format.md.

   Run:    cc -O2 -Wall -o subscriber examples/subscriber.c -lzmq       (Debian: libzmq3-dev)
           ./subscriber ENDPOINT ...
           An endpoint is what `dev.endpoint` says, or that of a pipeline's `Zmq` sink.
   See:    A line of JSON for each batch: how many packets came of each device, and how many were lost.
           Kill the device's worker: it goes on, and counts no packet twice.

   What it reads of msgpack is what the wire format has: maps, arrays, numbers, texts and bytes. */

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

enum { DEVICES = 64, DEEPEST = 8 };

/* -- msgpack ------------------------------------------------------------------------------------ */

/* What is left of a message. After something malformed `bad` is set, and all reads give zeros. */
struct reader {
    const uint8_t *at, *end;
    bool bad;
};

static const uint8_t *take(struct reader *in, uint64_t size) {
    if (in->bad || size > (uint64_t)(in->end - in->at)) {
        in->bad = true;
        return NULL;
    }
    in->at += size;
    return in->at - size;
}

static uint64_t big_endian(struct reader *in, int size) {
    const uint8_t *bytes = take(in, size);
    uint64_t value = 0;
    for (int n = 0; bytes && n < size; n++)
        value = value << 8 | bytes[n];
    return value;
}

enum kind { NUMBER, BYTES, ARRAY, MAP, OTHER };

/* Reads the head of a value. Sets the number itself, or how many bytes or elements follow. */
static enum kind head(struct reader *in, uint64_t *value) {
    const uint8_t *tag = take(in, 1);
    *value = 0;
    if (!tag)
        return OTHER;
    uint8_t t = *tag;
    if (t < 0x80) { *value = t; return NUMBER; }
    if (t < 0x90) { *value = t & 0x0f; return MAP; }
    if (t < 0xa0) { *value = t & 0x0f; return ARRAY; }
    if (t < 0xc0) { *value = t & 0x1f; return BYTES; }
    switch (t) {
    case 0xc0: case 0xc2: case 0xc3: return OTHER;                                   /* nil, bool */
    case 0xc4: case 0xd9: *value = big_endian(in, 1); return BYTES;
    case 0xc5: case 0xda: *value = big_endian(in, 2); return BYTES;
    case 0xc6: case 0xdb: *value = big_endian(in, 4); return BYTES;
    case 0xcc: case 0xd0: *value = big_endian(in, 1); return NUMBER;
    case 0xcd: case 0xd1: *value = big_endian(in, 2); return NUMBER;
    case 0xce: case 0xd2: *value = big_endian(in, 4); return NUMBER;
    case 0xcf: case 0xd3: *value = big_endian(in, 8); return NUMBER;
    case 0xdc: *value = big_endian(in, 2); return ARRAY;
    case 0xdd: *value = big_endian(in, 4); return ARRAY;
    case 0xde: *value = big_endian(in, 2); return MAP;
    case 0xdf: *value = big_endian(in, 4); return MAP;
    default: in->bad = true; return OTHER;
    }
}

static void skip(struct reader *in, int depth) {
    uint64_t value;
    enum kind kind = head(in, &value);
    if (depth > DEEPEST)
        in->bad = true;
    if (kind == BYTES)
        take(in, value);
    if (kind == MAP)
        value *= 2;
    if (kind == ARRAY || kind == MAP)
        for (uint64_t n = 0; n < value && !in->bad; n++)
            skip(in, depth + 1);
}

/* -- batches ------------------------------------------------------------------------------------ */

/* Reads the numbers of a header that this reader knows, and skips the others. */
static bool read_header(struct reader in, uint64_t *version, uint64_t *seq, uint64_t *queue,
                        uint64_t *stream, bool *end) {
    uint64_t keys, size;
    if (head(&in, &keys) != MAP)
        return false;
    for (; keys > 0 && !in.bad; keys--) {
        if (head(&in, &size) != BYTES)
            return false;
        const uint8_t *key = take(&in, size);
        if (key && size == 1 && !memcmp(key, "v", 1))
            in.bad |= head(&in, version) != NUMBER;
        else if (key && size == 3 && !memcmp(key, "seq", 3))
            in.bad |= head(&in, seq) != NUMBER;
        else if (key && size == 5 && !memcmp(key, "queue", 5))
            in.bad |= head(&in, queue) != NUMBER;
        else if (key && size == 6 && !memcmp(key, "stream", 6))
            in.bad |= head(&in, stream) != NUMBER;
        else {
            *end |= key && size == 3 && !memcmp(key, "end", 3);
            skip(&in, 0);
        }
    }
    return !in.bad;
}

struct device {
    char name[128];
    uint64_t queue; /* each queue of a device has numbers of its own */
    uint64_t stream; /* after a change of it, and after the end, they begin anew */
    bool ended;
    uint64_t first, next, received, lost, bytes;
} devices[DEVICES];

static struct device *find(const char *name, uint64_t queue, uint64_t stream, uint64_t seq) {
    for (int n = 0; n < DEVICES; n++) {
        struct device *one = &devices[n];
        if (!*one->name) {
            snprintf(one->name, sizeof one->name, "%s", name);
            one->queue = queue;
            one->stream = stream;
            one->first = one->next = seq;
        }
        if (!strcmp(one->name, name) && one->queue == queue)
            return one;
    }
    return NULL;
}

/* Counts a batch; what was sent again after a restart of the worker is left out. */
static bool count(const char *name, struct reader header, struct reader payload) {
    uint64_t version = 0, seq = 0, queue = 0, stream = 0, packets, size;
    bool end = false;
    if (!read_header(header, &version, &seq, &queue, &stream, &end) || version != 1 || head(&payload, &packets) != ARRAY)
        return false;
    struct device *one = find(name, queue, stream, seq);
    if (!one)
        return false;
    if (one->ended || one->stream != stream) { /* another device of this name */
        one->stream = stream;
        one->next = seq;
    }
    one->ended = end;
    if (seq > one->next)
        one->lost += seq - one->next;
    for (uint64_t n = 0; n < packets && !payload.bad; n++) {
        if (head(&payload, &size) != BYTES || !take(&payload, size))
            return false;
        if (seq + n >= one->next) {
            one->received++;
            one->bytes += size;
        }
    }
    if (seq + packets > one->next)
        one->next = seq + packets;
    printf("{\"device\": \"%s\", \"queue\": %" PRIu64 ", \"first\": %" PRIu64 ", \"received\": %" PRIu64 ", \"lost\": %" PRIu64
           ", \"bytes\": %" PRIu64 ", \"next\": %" PRIu64 "}\n",
           one->name, one->queue, one->first, one->received, one->lost, one->bytes, one->next);
    fflush(stdout);
    return true;
}

/* -- ZeroMQ ------------------------------------------------------------------------------------- */

static struct reader content(zmq_msg_t *part) {
    const uint8_t *data = zmq_msg_data(part);
    return (struct reader){data, data + zmq_msg_size(part), false};
}

static void receive(void *socket) {
    zmq_msg_t parts[3];
    int count_of_parts = 0, more = 1;
    while (more) { /* all parts of a message arrive together */
        zmq_msg_t spare, *part = count_of_parts < 3 ? &parts[count_of_parts] : &spare;
        zmq_msg_init(part);
        if (zmq_msg_recv(part, socket, 0) < 0) {
            perror("zmq_msg_recv");
            exit(1);
        }
        more = zmq_msg_more(part);
        if (part == &spare)
            zmq_msg_close(part);
        count_of_parts++;
    }
    char name[sizeof devices->name];
    snprintf(name, sizeof name, "%.*s", (int)zmq_msg_size(&parts[0]), (char *)zmq_msg_data(&parts[0]));
    for (char *c = name; *c; c++) /* what would have to be escaped in JSON */
        if (*c == '"' || *c == '\\' || (unsigned char)*c < ' ')
            *c = '?';
    /* To a handshake of some other subscriber. */
    bool is_answer = zmq_msg_size(&parts[0]) && !*(char *)zmq_msg_data(&parts[0]);
    bool is_batch = count_of_parts == 3 && !is_answer;
    if (!is_answer && !(is_batch && count(name, content(&parts[1]), content(&parts[2]))))
        fprintf(stderr, "a message is ignored: it is no batch of version 1\n");
    for (int n = 0; n < 3 && n < count_of_parts; n++)
        zmq_msg_close(&parts[n]);
}

int main(int count_of_arguments, char **arguments) {
    void *socket = zmq_socket(zmq_ctx_new(), ZMQ_SUB);
    int soon = 1, latest = 1000; /* milliseconds: back soon after a restart of the worker */
    zmq_setsockopt(socket, ZMQ_RECONNECT_IVL, &soon, sizeof soon);
    zmq_setsockopt(socket, ZMQ_RECONNECT_IVL_MAX, &latest, sizeof latest);
    zmq_setsockopt(socket, ZMQ_SUBSCRIBE, "", 0);
    for (int n = 1; n < count_of_arguments; n++)
        if (zmq_connect(socket, arguments[n])) {
            fprintf(stderr, "%s: %s\n", arguments[n], zmq_strerror(zmq_errno()));
            return 1;
        }
    for (;;)
        receive(socket);
}
