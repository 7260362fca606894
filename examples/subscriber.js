// A subscriber in JavaScript: packets of any device, by ZeroMQ and the wire format of docs/wire-format.md.
//
// Run:    npm install zeromq @msgpack/msgpack
//         node examples/subscriber.js ENDPOINT ...
//         An endpoint is what `dev.endpoint` says, or that of a pipeline's `Zmq` sink.
// See:    A line of JSON for each batch: how many packets came of each device, and how many were lost.
//         Kill the device's worker: it goes on, and counts no packet twice.

"use strict";

const { decode } = require("@msgpack/msgpack");
const { Subscriber } = require("zeromq");

const counts = new Map();

/** Return a number of a header, of which times alone have more than 53 bits. */
function number(value) {
  const found = Number(value);
  if (!Number.isSafeInteger(found) || found < 0) throw new Error(`${value} is no number`);
  return found;
}

/** Count a batch. Each queue of a device has numbers of its own. */
function take(device, head, packets) {
  const seq = number(head.seq);
  const queue = number(head.queue ?? 0);
  const stream = number(head.stream ?? 0);
  if (!Array.isArray(packets) || !packets.every((packet) => packet instanceof Uint8Array)) {
    throw new Error("its packets are no bytes");
  }
  const key = `${device} ${queue}`;
  if (!counts.has(key)) {
    counts.set(key, { device, queue, stream, first: seq, received: 0, lost: 0, bytes: 0, next: seq });
  }
  const count = counts.get(key);
  if (count.ended || count.stream !== stream) { // another device: its numbers begin anew
    Object.assign(count, { stream, next: seq });
  }
  count.ended = "end" in head;
  const again = Math.max(0, count.next - seq); // sent again after a restart of the worker
  const fresh = packets.slice(again);
  count.lost += Math.max(0, seq - count.next);
  count.received += fresh.length;
  count.bytes += fresh.reduce((sum, packet) => sum + packet.length, 0);
  count.next = Math.max(count.next, seq + packets.length);
  return count;
}

async function main(endpoints) {
  const socket = new Subscriber({ reconnectInterval: 1, reconnectMaxInterval: 1000 });
  endpoints.forEach((endpoint) => socket.connect(endpoint));
  socket.subscribe();
  for await (const [topic, header, payload] of socket) {
    if (topic[0] === 0) continue; // the answer to a handshake of some other subscriber
    try {
      const head = decode(header, { useBigInt64: true }); // times have more than 53 bits
      if (head.v !== 1) throw new Error(`version ${head.v}`);
      console.log(JSON.stringify(take(topic.toString(), head, decode(payload))));
    } catch (error) {
      console.error(`a message is ignored: ${error.message}`);
    }
  }
}

main(process.argv.slice(2));
